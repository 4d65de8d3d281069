import Environments
import HostSupport
import InterceptModel
import InterceptProtocol
import WorkspaceAPI

/// The texts of `kl intercept list` and `status`.
extension InterceptList {
    var text: String {
        guard !self.holders.isEmpty else {
            return "No active intercepts in environment \(self.environment).\nStart one with: kl intercept start\n"
        }
        var table = Table(["SERVICE", "KIND", "PHASE", "PORTS", "WORKSPACE", "SINCE", "CONNECTIONS", "TUNNEL"])
        let names = HolderNames(self.holders)
        for intercept in self.holders {
            table.add([
                intercept.service,
                intercept.kind.rawValue,
                intercept.phase.rawValue,
                // Another workspace's sidecars list no ports while no local server listens there.
                intercept.ports.isEmpty ? "-" : intercept.ports.map(\.arrow).joined(separator: ", "),
                names.of(intercept),
                Times.age(of: intercept.since),
                intercept.connections.map { "\($0.open) (\(Times.grouped($0.total)))" } ?? "-",
                intercept.tunnelText ?? "-",
            ])
            if let reason = intercept.reason {
                let seen = intercept.lastSeen.map { "; last seen \(Times.age(of: $0)) ago" } ?? ""
                table.note("Reason: \(reason.description.printable)\(seen)")
            }
            if let behind = intercept.connections?.behindText { table.note(behind) }
            if let seen = intercept.originalSees?.news { table.note("Original: \(seen)") }
        }
        return table.text
    }
}

/// The names by which rows of several workspaces are told apart.
struct HolderNames {
    /// Labels that more than one key has.
    private let shared: Set<String>

    init(_ holders: [InterceptView]) {
        let keys = Dictionary(grouping: holders, by: \.workspace).mapValues { Set($0.map(\.publicKey)) }
        self.shared = Set(keys.filter { $0.value.count > 1 }.keys)
    }

    /// `ada@thinkpad (you)`, `grace@thinkpad`; `ada@thinkpad 9f3c…Yk=` if another workspace has the same label.
    func of(_ holder: InterceptView) -> String {
        let label = holder.workspace.printable
        if holder.isOwn { return "\(label) (you)" }
        return self.shared.contains(holder.workspace) ? "\(label) \(holder.publicKey.abbreviatedKey)" : label
    }
}

extension InterceptView.Port {
    /// "8080", "53/udp"
    var number: String { "\(self.service)\(self.transport == "udp" ? "/udp" : "")" }

    /// "8080 → 3000"; an address on another machine in full.
    var arrow: String {
        let target =
            self.target.hasPrefix("localhost:") ? String(self.target.dropFirst("localhost:".count)) : self.target
        // For another workspace's intercept, the environment may not know the target.
        return target.isEmpty ? self.number : "\(self.number) → \(target.printable)"
    }
}

extension SeenAddress {
    /// Nil: the original sees clients' addresses.
    var text: String? {
        guard self.whose == .sidecar else { return nil }
        let address = self.address.map { "\($0.printable), the sidecar's address," } ?? "the sidecar's address"
        return "sees \(address) in place of clients' addresses" + (self.reason.map { ": \($0.printable)" } ?? "")
    }

    /// Nil also where the original always sees the sidecar's address: an intercept changes nothing there.
    var news: String? { self.reason == nil ? nil : self.text }
}

extension InterceptView.Connections {
    /// Nil: all is copied.
    var behindText: String? {
        guard let behind = self.behind, behind > 0 else { return nil }
        return
            "\(Times.grouped(behind)) cop\(behind == 1 ? "y was" : "ies were") cut off or left out: the workspace couldn't keep up"
    }
}

extension InterceptView {
    /// "tcp 0.3 ms", of the first active sidecar, or else of the first one.
    var tunnelText: String? {
        guard let first = self.sidecars?.first(where: { $0.phase == .active }) ?? self.sidecars?.first else {
            return nil
        }
        return first.tunnelText
    }

    var text: String {
        var lines: [(String, String)] = []
        lines.append(("Service:", "\(self.service)   Environment: \(self.environment)"))
        if let through = self.through {
            lines.append(("Through:", "service \(through.printable), which has the same pods"))
        }
        lines.append(("Kind:", self.kind == .mirror ? "mirror: another side answers" : "intercept"))
        lines.append(("Phase:", self.phaseText))
        if let reason = self.reason { lines.append(("Reason:", reason.description.printable)) }
        lines.append(("Workspace:", "\(self.workspace.printable)   key \(self.publicKey.abbreviatedKey)"))
        if let seen = self.lastSeen { lines.append(("Last seen:", "\(Times.local(seen)) (\(Times.age(of: seen)))")) }
        for (number, port) in self.ports.enumerated() {
            // Where another workspace's local server is, only that workspace knows.
            var text = port.target.isEmpty ? port.number : "\(port.number) → \(port.target.printable)"
            if port.isListening == false { text += "   ! nothing listens there: \(self.whoAnswersInstead)" }
            lines.append((number == 0 ? "Ports:" : "", text))
        }
        if let connections = self.connections {
            let counts = "\(connections.open) open, \(Times.grouped(connections.total)) total"
            let passed = self.kind == .mirror ? "" : ", \(Times.grouped(connections.passed)) passed to the original"
            lines.append((self.kind == .mirror ? "Copies:" : "Connections:", counts + passed))
            if let behind = connections.behindText { lines.append(("Behind:", behind)) }
        }
        if let seen = self.originalSees?.text { lines.append(("Original:", seen)) }
        if let tunnel = self.sidecars?.first(where: { $0.phase == .active }) {
            var text = "\(tunnel.carrier.rawValue) \(tunnel.shortAddress)"
            if let rtt = tunnel.rttMs { text += ", rtt \(Times.fixed(rtt, 1)) ms" }
            if let age = tunnel.handshakeAgeSeconds { text += ", handshake \(Times.fixed(age, 0)) s ago" }
            text += ", \(Times.grouped(tunnel.messagesLost)) lost of \(Times.grouped(tunnel.messagesSent))"
            if let mtu = tunnel.mtu { text += ", mtu \(mtu) bytes" }
            if let changes = tunnel.carrierChanges, changes > 0 {
                text += ", \(Times.grouped(changes)) carrier change\(changes == 1 ? "" : "s")"
            }
            lines.append(("Tunnel:", text))
        }
        var result = Self.aligned(lines)
        if let sidecars = self.sidecars {
            let ready = sidecars.filter { $0.phase == .active }.count
            result += Self.aligned([("Sidecars:", "\(ready) of \(sidecars.count) ready")])
            for sidecar in sidecars {
                let place = sidecar.listens.joined(separator: ", ")
                let reason = sidecar.reason.map { "   \($0.printable)" } ?? ""
                result += "  \(sidecar.name)   \(place)   \(sidecar.phase.rawValue)   \(sidecar.tunnelText)\(reason)\n"
            }
        }
        if let traffic = self.traffic {
            let text = "\(Times.bytes(traffic.bytesIn)) in, \(Times.bytes(traffic.bytesOut)) out"
            result += Self.aligned([("Traffic:", text)])
        }
        return result
    }

    private var whoAnswersInstead: String {
        if self.kind == .mirror { return "nothing is copied" }
        return self.onUnavailable == .refuse ? "clients are refused" : "the original answers"
    }

    private var phaseText: String {
        let since = self.phaseSince ?? self.since
        // Of another workspace's it is known when it began, and not since when it is Degraded.
        let word = self.phaseSince == nil && self.phase != .active ? "begun" : "since"
        return "\(self.phase.rawValue)   \(word) \(Times.local(since)) (\(Times.age(of: since)))"
    }

    private static func aligned(_ lines: [(String, String)]) -> String {
        lines.map { $0.0 + String(repeating: " ", count: 14 - $0.0.count) + $0.1 + "\n" }.joined()
    }
}

extension SidecarStatus {
    /// The address, shortened to fit on a line with others.
    var shortAddress: String { self.carrier == .exec ? self.address.abbreviatedCommand : self.address }

    var tunnelText: String {
        guard self.phase == .active, let rtt = self.rttMs else {
            return self.phase == .active ? self.carrier.rawValue : "-"
        }
        return "\(self.carrier.rawValue) \(Times.fixed(rtt, 1)) ms"
    }
}
