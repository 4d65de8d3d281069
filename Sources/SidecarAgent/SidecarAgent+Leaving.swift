import InterceptModel
import NIOCore
public import Noise

/// How keys are forgotten, and how an agent that no workspace needs any more ends without harm to the original's clients.
extension SidecarAgent {
    /// Ends what a key holds. A key that was admitted is forgotten, and its connection ends with REVOKED; with a key of the flags
    /// or the file this happens once `accept` no longer names it.
    ///
    /// - Parameter stays: `accept` will go on naming the key. So its connection ends now, and its workspace may come back.
    /// - Returns: false if the key wasn't accepted.
    public func leave(_ key: PublicKey, stays: Bool = false) -> Bool {
        guard self.accepted(key) != nil else { return false }
        self.audit(.leave, key, "left")
        self.admitted[key] = nil
        self.endHolding(of: key)
        if self.configured[key] == nil { self.forget(key) } else if stays { self.closeConnection(of: key, .revoked) }
        return true
    }

    // MARK: Away

    /// The workspace of an accepted key isn't connected.
    ///
    /// - Parameter delay: how long until the key counts as away for good; nil: `linger`.
    func isAway(_ key: PublicKey, for delay: TimeAmount? = nil) {
        guard self.onAway != nil, self.accepted(key) != nil else {
            return
        }
        self.away[key] = .now() + (delay ?? self.configuration.tunnel.linger)
        self.watchAway()
    }

    func isHere(_ key: PublicKey) {
        self.away[key] = nil
        self.stay()
    }

    private func watchAway() {
        self.awayTimer?.cancel()
        guard !self.isEnding, let first = self.away.values.min() else { return }
        self.awayTimer = self.eventLoop.assumeIsolated().scheduleTask(deadline: first) { [weak self] in
            guard let self else { return }
            let now = NIODeadline.now()
            for (key, end) in self.away where end <= now {
                self.away[key] = nil
                self.onAway?(key)
            }
            self.watchAway()
        }
    }

    // MARK: Use

    /// † With `idle`, how long after its start an agent waits for the first one to come. It may have been started long after somebody
    /// asked for it, and given up since.
    static let firstUse = TimeAmount.minutes(2)

    private var isUsed: Bool { !self.links.isEmpty || self.configuration.idle != nil && !self.table.isEmpty }

    func useMayHaveChanged() {
        guard self.isUsed || self.configuration.idle != nil && self.unusedTimer == nil else { return }
        self.watchUse(in: self.configuration.tunnel.linger)
    }

    /// - Parameter delay: until the agent counts as unused, if there is no idle time.
    func watchUse(in delay: TimeAmount) {
        self.unusedTimer?.cancel()
        self.unusedTimer = nil
        guard self.onUnused != nil, !self.isUsed, !self.isEnding else { return }
        self.unusedTimer = self.eventLoop.assumeIsolated().scheduleTask(deadline: self.unusedAt(delay)) { [weak self] in
            guard let self, !self.isUsed, !self.isEnding else { return }
            self.onUnused?()
        }
    }

    private func unusedAt(_ delay: TimeAmount) -> NIODeadline {
        guard let idle = self.configuration.idle else { return .now() + delay }
        return self.hasBeenUsed ? .now() + idle : self.startedAt + min(idle, Self.firstUse)
    }

    // MARK: No key left

    /// † In a sentence.
    private static let namesAtMost = 8

    /// Why ending this agent now would harm somebody, as a clause. Nil: it wouldn't.
    ///
    /// UDP clients don't count: what they send next reaches the original.
    ///
    /// - Parameter keys: those that don't count.
    public func need(besides keys: Set<PublicKey>) -> String? {
        let now = UTCTime.now
        let others = self.configured.merging(self.admitted) { configured, _ in configured }.values
            .filter { !keys.contains($0.key) && !($0.grant?.isOver(at: now) ?? false) }
            .map { peer in self.table.entries.first { $0.key == peer.key }?.label ?? peer.name }
            .sorted()
        guard others.isEmpty else {
            let names = others.prefix(Self.namesAtMost).joined(separator: ", ")
            let more = others.count - Self.namesAtMost
            return "others need it: \(names)" + (more > 0 ? " and \(more) more" : "")
        }
        guard self.clients > 0 else { return nil }
        return "it still passes on \(self.clients) connection\(self.clients == 1 ? "" : "s")"
    }

    /// Whether the key's workspace is away and holds nothing: it has stopped, or was never here.
    public func isLingering(_ key: PublicKey) -> Bool { self.links[key] == nil && self.table[key] == nil }

    /// Calls back once nothing is open that this agent passes on, however long that takes. A key that is admitted meanwhile, or a
    /// workspace that connects, keeps the agent.
    ///
    /// An agent that owns the service's port would get new clients for ever, so it calls back at once.
    public func retire(then done: @escaping () -> Void) {
        guard !self.isEnding else { return }
        self.retirement = done
        self.retireIfIdle()
    }

    /// A workspace needs the agent again.
    func stay() { self.retirement = nil }

    func retireIfIdle() {
        guard let done = self.retirement, !self.isEnding, self.clients == 0 || self.redirect == nil else { return }
        self.retirement = nil
        done()
    }
}
