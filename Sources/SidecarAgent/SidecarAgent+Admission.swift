public import CommandText
import Diversion
import InterceptModel
public import InterceptProtocol
import Logging
import NIOCore
public import Noise

/// Which keys are accepted, and what they claim.
extension SidecarAgent {
    public enum AdmissionOutcome: Equatable, Sendable {
        case admitted
        /// Nothing has changed, unless the key's new time is over: then it isn't accepted any more.
        case refused(ControlMessage.Failure)
    }

    /// † Keys that are admitted while the agent runs, besides those of its flags and its file.
    public static let admittedAtMost = 1_024

    /// Accepts one more key. Its claim stands for 30 s, within which its workspace connects and asks for the same.
    ///
    /// A key that is admitted already gets what is said now, in place of what was said before. Of a key of the flags or the file only
    /// the claim counts: it has the rights that it has there, and as long as it is there.
    ///
    /// - Parameter force: takes the ports of the claim from the workspaces that intercept them.
    public func admit(_ peer: AcceptedKey, force: Bool) -> AdmissionOutcome {
        let before = self.admitted[peer.key]
        let isOver = peer.grant?.isOver(at: .now) ?? false
        if self.configured[peer.key] == nil { self.admitted[peer.key] = peer }
        let failure =
            before == nil && self.admitted.count > Self.admittedAtMost
            ? Self.failure(.unsupported, "\(Self.admittedAtMost) keys are admitted already, and no more can be")
            : self.refusal(of: peer, force: force)
        if let failure {
            // A time that is over takes away what the key was admitted with, as it does in the file.
            if isOver, before != nil { self.followKeys() } else { self.admitted[peer.key] = before }
            self.auditAdmission(of: peer, force: force, failure.code.rawValue, failure.reason)
            return .refused(failure)
        }
        self.auditAdmission(of: peer, force: force, "admitted")
        self.followKeys()
        self.stay()
        self.hasBeenUsed = true
        if self.configuration.idle != nil { self.watchUse(in: self.configuration.tunnel.linger) }
        if self.links[peer.key] == nil { self.isAway(peer.key) }
        return .admitted
    }

    private func refusal(of peer: AcceptedKey, force: Bool) -> ControlMessage.Failure? {
        if self.accepted(peer.key)?.grant?.isOver(at: .now) ?? false {
            return Self.failure(.denied, "this key's time is over")
        }
        // A file may be for several sidecars, and name ports of others.
        if let port = self.admitted[peer.key]?.grant?.ports?.sorted().first(where: { !self.serves($0) }) {
            return self.notServed(port)
        }
        return peer.claim.flatMap { self.claim($0, of: peer, force: force) }
    }

    /// The same for an admission whose key is still text.
    public func admit(_ admission: Admission, force: Bool) -> AdmissionOutcome {
        guard let peer = AcceptedKey(admission) else {
            return .refused(Self.failure(.unsupported, "'\(admission.publicKey.printable)' isn't a public key"))
        }
        return self.admit(peer, force: force)
    }

    /// The keys that `admit` has let in, and that haven't left.
    public var admittedKeys: [PublicKey] { Array(self.admitted.keys) }

    /// Replaces the keys of flags and file; if a key is there twice, the first counts. Connections of keys that are no longer
    /// accepted end at once, and so does what a key holds without the right to it.
    public func accept(_ peers: [AcceptedKey]) {
        self.tellOfUseless(peers)
        let known = Set(self.configured.keys)
        self.configured = Dictionary(peers.map { ($0.key, $0) }, uniquingKeysWith: { first, _ in first })
        // Whoever writes flags and file says what becomes of these from now on, and when they end.
        for key in self.configured.keys { self.admitted[key] = nil }
        self.followKeys()
        for key in self.configured.keys where !known.contains(key) && self.links[key] == nil { self.isAway(key) }
    }

    /// Says what has no effect here of lines that are new. That is no error: a file may be for several sidecars.
    private func tellOfUseless(_ peers: [AcceptedKey]) {
        let log = self.log.limited(by: LogShare())
        for peer in peers where self.configured[peer.key] != peer {
            let metadata: Logger.Metadata = ["key": "\(peer.key.abbreviated)"]
            if peer.grant?.isOver(at: .now) ?? false { log.warning("a key's time is over already", metadata: metadata) }
            let others = (peer.grant?.ports ?? []).filter { self.sidesByPort[$0] == nil }.sorted()
            if !others.isEmpty {
                let ports = Self.brief(others)
                log.notice("a key has rights to ports that aren't served here: \(ports)", metadata: metadata)
            }
            if peer.claim != nil, self.isStarted {
                log.notice("a claim is left out: keys claim ports only at the start", metadata: metadata)
            }
        }
    }

    /// Whether the key's rights are those of flags or file.
    public func isConfigured(_ key: PublicKey) -> Bool { self.configured[key] != nil }

    /// What a key was accepted with. Nil: it isn't accepted.
    func accepted(_ key: PublicKey) -> AcceptedKey? { self.configured[key] ?? self.admitted[key] }

    /// Makes the tunnel accept exactly the keys that are accepted now, and ends what a key holds without the right to it.
    private func followKeys() {
        guard let server = self.server else { return }
        let now = UTCTime.now
        let peers = self.configured.merging(self.admitted) { configured, _ in configured }
        let over = peers.filter { $0.value.grant?.isOver(at: now) ?? false }
        for key in server.acceptedKeys {
            if over[key] != nil {
                self.log.notice("key's time is over", metadata: ["key": "\(key.abbreviated)"])
                self.audit(.expiry, key, "revoked")
                self.forget(key)
            } else if peers[key] == nil {
                self.log.notice("key is no longer accepted", metadata: ["key": "\(key.abbreviated)"])
                self.audit(.revocation, key, "revoked")
                self.forget(key)
            }
        }
        for key in over.keys { self.admitted[key] = nil }
        for key in peers.keys where over[key] == nil {
            server.accept(key, presharedKey: self.configuration.presharedKey)
        }
        self.followRights()
        self.followLabels()
        self.watchTime(peers.values.compactMap { $0.grant?.until }.filter { $0 > now }.min())
    }

    /// Calls workspaces that are here or hold ports as flags, file and `admit` call them now.
    private func followLabels() {
        for link in self.links.values { link.name = self.accepted(link.key)?.label ?? link.name }
        for entry in self.table.entries {
            guard let label = self.accepted(entry.key)?.label, label != entry.label else { continue }
            self.table.rename(entry.key, label)
        }
    }

    /// Looks at the clock at least once a second, since the clock may be set.
    private func watchTime(_ next: UTCTime?) {
        self.keysTimer?.cancel()
        self.keysTimer = nil
        guard let next else { return }
        let wait = min(1_000, max(1, next.milliseconds(after: .now)))
        self.keysTimer = self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(wait)) { [weak self] in
            if next <= .now { self?.followKeys() } else { self?.watchTime(next) }
        }
    }

    func forget(_ key: PublicKey) {
        self.server?.revoke(key)
        self.away[key] = nil
        if let standing = self.standings.removeValue(forKey: key) { self.finishAudit(of: standing) }
        // A claim has no connection whose end would remove it.
        if self.links[key] == nil { self.releaseHolder(key, isStopped: true) }
    }

    func standing(of key: PublicKey) -> PeerStanding {
        if let standing = self.standings[key] { return standing }
        // All keys that aren't accepted share one.
        guard self.accepted(key) != nil else { return self.strangers }
        let standing = PeerStanding()
        self.standings[key] = standing
        return standing
    }

    // MARK: Claims

    /// Enters the claims of the keys that flags name. Of two claims for one port, the first stands.
    func claimAtStart() {
        self.isStarted = true
        for peer in self.configuration.peers where self.server?.acceptedKeys.contains(peer.key) ?? false {
            guard let claim = peer.claim, let failure = self.claim(claim, of: peer, force: false) else { continue }
            self.log.warning("a claim is left out: \(failure.reason)", metadata: ["key": "\(peer.key.abbreviated)"])
        }
    }

    private func claim(_ claim: Admission.Claim, of peer: AcceptedKey, force: Bool) -> ControlMessage.Failure? {
        if let port = claim.ports.sorted().first(where: { !self.serves($0) }) { return self.notServed(port) }
        let (kind, ports) = (claim.kind, claim.ports)
        if let denial = self.denial(of: peer.key, kind, ports, refuses: false) { return denial }
        if let failure = self.takenElsewhere(ports) { return failure }
        // Of a key of flags or file, the label is the one that it has there.
        let name = self.accepted(peer.key)?.label ?? peer.name
        if let failure = self.makeRoom(for: peer.key, kind, ports, as: name, takesOver: force, isForced: force) {
            return failure
        }
        self.table.claim(peer.key, label: name, claim.kind, claim.ports, at: .now())
        self.diversionMayHaveChanged()
        self.watchClaims()
        return nil
    }

    private func watchClaims() {
        self.claimsTimer?.cancel()
        guard let end = self.table.nextClaimEnd else { return }
        self.claimsTimer = self.eventLoop.assumeIsolated().scheduleTask(deadline: end) { [weak self] in
            guard let self else { return }
            for entry in self.table.expireClaims(at: .now()) {
                self.log.notice(
                    "a claim has ended: its workspace didn't ask for anything",
                    metadata: ["workspace": "\(entry.label)", "key": "\(entry.key.abbreviated)"]
                )
                self.audit(.stop, entry.key, "lapsed", entry.kind, entry.reserved, label: entry.label)
            }
            self.watchClaims()
        }
    }
}
