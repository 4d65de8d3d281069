public import CommandText
import Diversion
import InterceptModel
public import InterceptProtocol
import NIOCore
public import Noise

/// Who may connect, and who is in whose way.
extension SidecarAgent {
    public enum AdmissionOutcome: Equatable, Sendable {
        case admitted
        /// Nothing has changed.
        case refused(ControlMessage.Failure)
    }

    /// † Keys that are admitted while the agent runs, besides those of its flags and its file.
    public static let admittedAtMost = 1_024

    /// Accepts one more key. Its claim stands for 30 s, within which its workspace connects and asks for the same.
    ///
    /// A key that is admitted already gets what is said now, in place of what was said before.
    ///
    /// - Parameter force: takes the ports of the claim from whoever intercepts them.
    public func admit(_ peer: AcceptedKey, force: Bool) -> AdmissionOutcome {
        guard self.admitted[peer.key] != nil || self.admitted.count < Self.admittedAtMost else {
            return .refused(
                Self.failure(.unsupported, "\(Self.admittedAtMost) keys are admitted already, and no more can be")
            )
        }
        if let claim = peer.claim, let failure = self.claim(claim, of: peer, force: force) { return .refused(failure) }
        self.admitted[peer.key] = peer
        self.server?.accept(peer.key, presharedKey: self.configuration.presharedKey)
        self.stay()
        if self.links[peer.key] == nil { self.isAway(peer.key) }
        return .admitted
    }

    /// The same for what was read but not yet taken apart.
    public func admit(_ admission: Admission, force: Bool) -> AdmissionOutcome {
        guard let peer = AcceptedKey(admission) else {
            return .refused(Self.failure(.unsupported, "'\(admission.publicKey.printable)' isn't a public key"))
        }
        return self.admit(peer, force: force)
    }

    /// Those that `admit` has let in, and that haven't left.
    public var admittedKeys: [PublicKey] { Array(self.admitted.keys) }

    /// Replaces the keys of flags and file. Connections of keys that are no longer accepted end at once.
    public func accept(_ peers: [AcceptedKey]) {
        guard let server = self.server else { return }
        let known = Set(self.configured.map(\.key))
        self.configured = peers
        let keys = Set(peers.map(\.key))
        for key in server.acceptedKeys where !keys.contains(key) && self.admitted[key] == nil {
            self.log.notice("key is no longer accepted", metadata: ["key": "\(key.abbreviated)"])
            self.forget(key)
        }
        for key in keys { server.accept(key, presharedKey: self.configuration.presharedKey) }
        for key in keys.subtracting(known) where self.links[key] == nil { self.isAway(key) }
    }

    func forget(_ key: PublicKey) {
        self.server?.revoke(key)
        self.away[key] = nil
        self.standings[key] = nil
        // A claim has no connection whose end would remove it.
        if self.links[key] == nil { self.releaseHolder(key, isStopped: true) }
    }

    func standing(of key: PublicKey) -> PeerStanding {
        if let standing = self.standings[key] { return standing }
        let standing = PeerStanding()
        self.standings[key] = standing
        return standing
    }

    // MARK: Claims

    /// The claims of the keys that flags name. Of two for one port the first stands.
    func claimAtStart() {
        for peer in self.configured {
            guard let claim = peer.claim, let failure = self.claim(claim, of: peer, force: false) else { continue }
            self.log.warning("a claim is left out: \(failure.reason)", metadata: ["key": "\(peer.key.abbreviated)"])
        }
    }

    private func claim(_ claim: Admission.Claim, of peer: AcceptedKey, force: Bool) -> ControlMessage.Failure? {
        if let port = claim.ports.sorted().first(where: { !self.serves($0) }) { return self.notServed(port) }
        if let failure = self.takenElsewhere(claim.ports) { return failure }
        if let failure = self.makeRoom(
            for: peer.key,
            claim.kind,
            claim.ports,
            as: peer.name,
            takesOver: force,
            isForced: force
        ) {
            return failure
        }
        self.table.claim(peer.key, label: peer.name, claim.kind, claim.ports, at: .now())
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
            }
            self.watchClaims()
        }
    }

    // MARK: Conflicts

    /// Ends the holdings that are in the way, if this may be done; otherwise says what is in the way. Nil: nothing is, or any more.
    ///
    /// - Parameters:
    ///   - label: of who asks.
    ///   - isForced: by whoever may admit keys here, whatever the sidecar lets workspaces do.
    func makeRoom(
        for key: PublicKey,
        _ kind: HoldingKind,
        _ ports: Set<ServicePort>,
        as label: String,
        takesOver: Bool,
        isForced: Bool = false
    ) -> ControlMessage.Failure? {
        switch self.table.refusal(of: key, kind, ports) {
        case nil: return nil
        case .otherKind(let other):
            let what = other == .mirror ? "mirrors" : "intercepts"
            return Self.failure(.unsupported, "this workspace \(what) ports of the service; stop that first")
        case .tooManyMirrors:
            let count = HolderTable.mirrorsAtMost
            return Self.failure(.unsupported, "\(count) workspaces mirror this service already, and no more can")
        case .busy(let others):
            guard takesOver, isForced || self.configuration.allowsTakeover else {
                return others.first.map { self.busy($0, ports, isTakeover: takesOver) }
            }
            for other in others {
                self.table.remove(other.key)
                if other.holding != nil { self.links[other.key]?.isTakenOver(by: label) }
            }
            return nil
        }
    }

    /// Another sidecar in this network namespace diverts one of these ports, which this one doesn't yet.
    func takenElsewhere(_ ports: Set<ServicePort>) -> ControlMessage.Failure? {
        var new = DivertedPorts(ports)
        new.tcp.subtract(self.diverted.tcp)
        new.udp.subtract(self.diverted.udp)
        return self.redirect?.conflict(on: new).map { Self.failure(of: $0) }
    }

    /// Why the kernel's rules couldn't be changed.
    static func failure(of error: DiversionError) -> ControlMessage.Failure {
        guard error.isTaken else { return Self.failure(.internal, error.description) }
        // Workspaces show the holder alone.
        let place = "another sidecar in this network"
        let holder = error.holder.map { "\($0) (by \(place))" } ?? place
        return Self.failure(.busy, error.description, holder: holder)
    }

    private func busy(
        _ other: HolderTable.Entry,
        _ ports: Set<ServicePort>,
        isTakeover: Bool
    ) -> ControlMessage.Failure {
        let common = other.reserved.intersection(ports)
        let link = self.links[other.key]
        let standing =
            if other.holding == nil { ", who hasn't begun yet" } else if link?.presence ?? .gone == .gone {
                ", who can't be reached at the moment"
            } else { "" }
        return Self.failure(
            .busy,
            "port\(common.count == 1 ? "" : "s") \(Admission.text(of: common)) \(common.count == 1 ? "is" : "are") intercepted by "
                + other.label + standing
                + (isTakeover ? ", and this sidecar was started without --allow-takeover" : ""),
            holder: other.label,
            since: other.since.rfc3339
        )
    }

    func notServed(_ port: ServicePort) -> ControlMessage.Failure {
        let served = self.servicePorts.map { "\($0)" }.joined(separator: ", ")
        return Self.failure(.port, "port \(port) isn't the service's; it has \(served)")
    }

    private static func failure(
        _ code: ControlMessage.Failure.Code,
        _ reason: String,
        holder: String? = nil,
        since: String? = nil
    ) -> ControlMessage.Failure {
        ControlMessage.Failure(generation: nil, code: code, reason: reason, holder: holder, since: since)
    }
}
