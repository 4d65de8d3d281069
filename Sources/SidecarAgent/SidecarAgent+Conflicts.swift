import CommandText
import Diversion
import InterceptModel
import InterceptProtocol
import Noise

/// Which holdings conflict, and what a key may do.
extension SidecarAgent {
    /// Ends the holdings that conflict with these ports, if the key may do that; otherwise returns the reason for a refusal.
    /// Nil: no holding conflicts, or no longer.
    ///
    /// - Parameters:
    ///   - label: the name of the workspace that asks.
    ///   - isForced: a program that may admit keys here asks for the takeover. It doesn't need --allow-takeover, but the key
    ///     needs the right to take over.
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
            let count = HoldingKind.mirrorsAtMost
            return Self.failure(.unsupported, "\(count) workspaces mirror this service already, and no more can")
        case .busy(let others):
            guard takesOver, isForced || self.configuration.allowsTakeover else {
                return others.first.map { self.busy($0, ports, isTakeover: takesOver) }
            }
            if let denial = self.takeoverDenial(of: key, others, ports) { return denial }
            for other in others {
                self.table.remove(other.key)
                if other.holding != nil { self.links[other.key]?.isTakenOver(by: label) }
                let result = "taken from \(other.label)"
                self.audit(.takeover, key, result, kind, other.reserved, label: label, from: other.key)
            }
            return nil
        }
    }

    /// The conflict if another sidecar in this network namespace diverts one of these ports, and this sidecar doesn't yet.
    func takenElsewhere(_ ports: Set<ServicePort>) -> ControlMessage.Failure? {
        var new = DivertedPorts(ports)
        new.tcp.subtract(self.diverted.tcp)
        new.udp.subtract(self.diverted.udp)
        // The kernel is asked again before its rules change, and those changes have a pace.
        guard let redirect = self.redirect, !new.isEmpty, self.looksElsewhere.take() else { return nil }
        return redirect.conflict(on: new).map { Self.failure(of: $0) }
    }

    /// Why the kernel's rules couldn't be changed.
    static func failure(of error: DiversionError) -> ControlMessage.Failure {
        guard error.isTaken else { return Self.failure(.internal, error.description) }
        // Workspaces show only the holder.
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
            "port\(common.count == 1 ? "" : "s") \(Self.brief(common.sorted())) \(common.count == 1 ? "is" : "are") intercepted by "
                + other.label + standing
                + (isTakeover ? ", and this sidecar was started without --allow-takeover" : ""),
            holder: other.label,
            since: other.since.rfc3339
        )
    }

    func notServed(_ port: ServicePort) -> ControlMessage.Failure {
        let served = Self.brief(self.servicePorts, separator: ", ")
        return Self.failure(.port, "port \(port) isn't the service's; it has \(served)")
    }

    /// The first few of these, and how many more there are.
    static func brief(_ ports: [ServicePort], separator: String = ",") -> String {
        let named = ports.prefix(AuditLine.portsAtMost).map { "\($0)" }.joined(separator: separator)
        let others = ports.count - AuditLine.portsAtMost
        return others > 0 ? "\(named) and \(others) more" : named
    }

    static func failure(
        _ code: ControlMessage.Failure.Code,
        _ reason: String,
        holder: String? = nil,
        since: String? = nil
    ) -> ControlMessage.Failure {
        ControlMessage.Failure(generation: nil, code: code, reason: reason, holder: holder, since: since)
    }

    // MARK: Rights

    /// Why a key may not hold these ports; nil if it may.
    func denial(
        of key: PublicKey,
        _ kind: HoldingKind,
        _ ports: Set<ServicePort>,
        refuses: Bool
    ) -> ControlMessage.Failure? {
        guard let grant = self.accepted(key)?.grant else { return nil }
        let verb = kind.rawValue
        guard grant.allows(kind == .mirror ? .mirror : .intercept) else {
            return Self.denied("to \(verb)", ports)
        }
        let others = ports.filter { !grant.allows($0) }
        guard others.isEmpty else {
            let own = grant.ports.map { Self.brief($0.sorted()) } ?? ""
            return Self.denied("to \(verb)", others, ", only \(own.isEmpty ? "none" : own)")
        }
        guard !refuses || grant.allows(.refuse) else { return Self.denied("to refuse clients of", ports) }
        return nil
    }

    private func takeoverDenial(
        of key: PublicKey,
        _ others: [HolderTable.Entry],
        _ ports: Set<ServicePort>
    ) -> ControlMessage.Failure? {
        guard let grant = self.accepted(key)?.grant, !grant.allows(.takeOver), let other = others.first else {
            return nil
        }
        return Self.denied("to take over", other.reserved.intersection(ports), " from \(other.label)")
    }

    private static func denied(
        _ what: String,
        _ ports: Set<ServicePort>,
        _ more: String = ""
    ) -> ControlMessage.Failure {
        let named = ports.isEmpty ? "ports" : "port\(ports.count == 1 ? "" : "s") \(Self.brief(ports.sorted()))"
        return Self.failure(.denied, "this workspace's key has no right here \(what) \(named)\(more)")
    }

    /// Ends what keys hold without the right to it; called when keys or rights may have changed.
    func followRights() {
        var told: [PublicKey: HolderTable.Entry] = [:]
        for entry in self.table.entries {
            let refuses = entry.holding?.refuses ?? false
            guard let denial = self.denial(of: entry.key, entry.kind, entry.reserved, refuses: refuses) else {
                continue
            }
            self.audit(.withdrawal, entry.key, denial.code.rawValue, entry.kind, entry.reserved, denial.reason)
            told[entry.key] = entry
            self.endHolding(of: entry.key)
        }
        // What was held before may have streams that are still open, whatever is held now.
        for link in self.links.values {
            guard let grant = self.accepted(link.key)?.grant else { continue }
            for (kind, ports) in link.endStreams(without: grant) {
                let entry = told[link.key]
                let others = entry?.kind == kind ? ports.subtracting(entry?.reserved ?? []) : ports
                guard !others.isEmpty else { continue }
                let denial = Self.denied(
                    "to \(kind.rawValue)",
                    others,
                    ", and what was open there of an earlier holding is ended"
                )
                self.audit(.withdrawal, link.key, denial.code.rawValue, kind, others, denial.reason)
            }
        }
    }

    /// Ends what a key holds: its workspace is told, and its open streams are reset.
    func endHolding(of key: PublicKey) {
        guard let entry = self.table[key] else { return }
        self.releaseHolder(key, isStopped: true)
        if entry.holding != nil { self.links[key]?.isDenied() }
    }
}
