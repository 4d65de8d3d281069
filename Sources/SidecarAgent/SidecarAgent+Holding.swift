import Diversion
public import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
public import Noise
import Tunnel

/// Which workspace holds the service, and how the kernel's rules follow from that.
extension SidecarAgent {
    /// - Parameters:
    ///   - known: ports that this workspace had before. If they aren't diverted now, they are diverted to it again without ending
    ///     the connections that are open to the original on them.
    ///   - done: called after the kernel's rules changed, with the error if the kernel refused.
    func hold(
        _ link: WorkspaceLink,
        _ start: ControlMessage.Start,
        isFresh: Bool,
        besides known: Set<UInt16>,
        then done: @escaping (DiversionError?) -> Void
    ) {
        self.holder = link
        let fresh = isFresh && self.unstopped != link.key
        self.changeRules { [weak self] change in
            switch change {
            case .success(let added):
                if let self, self.holder === link, link.intercept == start {
                    self.unstopped = nil
                    let added = added.subtracting(known)
                    let delay = TimeAmount.seconds(Int64(start.drainSeconds))
                    if fresh, !added.isEmpty { self.drainOriginals(added, in: delay, for: link) }
                }
                done(nil)
            case .failure(let error): done(error)
            }
        }
    }

    func releaseHolder(_ link: WorkspaceLink, isStopped: Bool, then done: @escaping () -> Void = {}) {
        guard self.holder === link else { return done() }
        self.unstopped = isStopped ? nil : link.key
        self.letGo(of: link, then: done)
    }

    func letGo(of link: WorkspaceLink, then done: @escaping () -> Void = {}) {
        guard self.holder === link else { return done() }
        self.holder = nil
        self.diversionMayHaveChanged(then: done)
    }

    /// Something was lost or given back, so the ports that the kernel should redirect may be others now.
    func diversionMayHaveChanged(then done: @escaping () -> Void = {}) {
        self.changeRules { [weak self] change in
            // The kernel's dead-man set expires by itself.
            if case .failure(let error) = change { self?.changeLog.error("the diversion can't be changed: \(error)") }
            done()
        }
    }

    /// Changes the kernel's rules now, or together with other changes soon.
    private func changeRules(_ done: @escaping (RuleChanges.Change) -> Void) {
        if self.rules.next == nil {
            if !self.rulesDiffer || self.rules.pace.take() { return done(self.followingRules()) }
            let time = self.rules.pace.next
            self.rules.next = self.eventLoop.assumeIsolated().scheduleTask(deadline: time) { [weak self] in
                self?.changeRulesForAll()
            }
        }
        self.rules.waiting.append(done)
    }

    func changeRulesNow() {
        guard self.rules.next != nil else { return }
        self.rules.next?.cancel()
        self.changeRulesForAll()
    }

    private func changeRulesForAll() {
        self.rules.next = nil
        let waiting = self.rules.waiting
        self.rules.waiting = []
        if self.rulesDiffer { _ = self.rules.pace.take() }
        let change = self.followingRules()
        for done in waiting { done(change) }
        // Links whose queue of answers was full had stopped reading.
        for link in self.links.values { link.readControl() }
    }

    private func followingRules() -> RuleChanges.Change {
        do throws(DiversionError) { return .success(try self.applyDiversion()) } catch { return .failure(error) }
    }

    private var rulesDiffer: Bool { self.redirect != nil && !self.isEnding && self.wantedPorts != self.diverted }

    private var wantedPorts: DivertedPorts { self.holder?.divertedPorts ?? DivertedPorts() }

    /// - Returns: the TCP ports that weren't diverted before.
    private func applyDiversion() throws(DiversionError) -> Set<UInt16> {
        guard let redirect = self.redirect, self.rulesDiffer else { return [] }
        let (ports, before) = (self.wantedPorts, self.diverted)
        if ports.isEmpty { self.endDrain() }
        try redirect.divert(ports)
        self.diverted = ports
        // On a port that is no longer diverted, new connections to the original can't be told from those to be ended, so none is.
        self.draining.formIntersection(ports.tcp)
        if self.draining.isEmpty { self.endDrain() }
        return ports.tcp.subtracting(before.tcp)
    }

    /// Connections that were open to the original before get the drain time, then both ends are closed: so a client that
    /// keeps its connection open also comes to the workspace.
    private func drainOriginals(_ ports: Set<UInt16>, in delay: TimeAmount, for link: WorkspaceLink) {
        self.originalsDrain?.cancel()
        let log = link.log
        // Ports of an earlier call whose time isn't over are included; the time begins anew for all.
        self.draining.formUnion(ports)
        self.originalsDrain = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            guard let self, let redirect = self.redirect else { return }
            let still = self.draining
            self.endDrain()
            guard !still.isEmpty else { return }
            let ended = redirect.endOriginalConnections(on: still).map { "\($0)" } ?? "as they speak"
            log.info(
                "the drain time is over: connections to the original are ended",
                metadata: ["count": "\(ended)"]
            )
        }
    }

    private func endDrain() {
        self.originalsDrain?.cancel()
        self.originalsDrain = nil
        self.draining = []
    }

    func closeConnection(of key: PublicKey, _ code: ErrorCode) { self.server?.close(key, code) }

    /// The intercept as reported to the environment.
    public struct Intercept: Equatable, Sendable {
        /// The workspace that gets new connections; nil if the original does.
        public var divertingTo: PublicKey?
        /// The workspace that holds the service, even while it can't be reached; nil if none does.
        public var holder: Holder?
        /// Of the holder's intercept.
        public var open: UInt64 = 0
        public var total: UInt64 = 0
        public var passed: UInt64 = 0

        public init() {}
    }

    public struct Holder: Equatable, Sendable {
        public var key: PublicKey
        public var workspace: String
        /// RFC 3339, UTC.
        public var since: String
        public var generation: UInt64
        public var ports: [ServicePort]
    }

    public var intercept: Intercept {
        guard let holder = self.holder else { return Intercept() }
        var intercept = Intercept()
        intercept.divertingTo = holder.isDiverting ? holder.key : nil
        intercept.holder = Holder(
            key: holder.key,
            workspace: holder.name,
            since: holder.since?.rfc3339 ?? "",
            generation: holder.intercept?.generation ?? 0,
            ports: holder.intercept?.ports ?? []
        )
        intercept.open = UInt64(holder.openCount)
        intercept.total = holder.total
        intercept.passed = holder.passed
        return intercept
    }

    /// Reports all changes within one turn of the loop, or within the pace's interval, once: when a service changes hands,
    /// only the final state.
    func interceptMayHaveChanged() {
        guard self.onInterceptChange != nil, !self.changeIsScheduled else { return }
        self.changeIsScheduled = true
        let tell = { [self] in
            self.changeIsScheduled = false
            self.onInterceptChange?()
        }
        let loop = self.eventLoop.assumeIsolated()
        if self.tidings.take() { loop.execute(tell) } else { loop.scheduleTask(deadline: self.tidings.next, tell) }
    }
}
