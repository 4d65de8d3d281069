import Environments
import InterceptModel
import InterceptProtocol

/// `kl env list`
struct EnvironmentList: Codable {
    struct Entry: Codable {
        var name: String
        var kind: String
        /// `up`, `down` or `broken`.
        var state: String
        /// If it is broken: why.
        var reason: String?
        var location: String
        var isConnected: Bool
    }

    var environments: [Entry]

    var text: String {
        guard !self.environments.isEmpty else {
            return "No environments found here.\nName a compose file: kl env connect --file compose.yaml\n"
        }
        var table = Table(["", "ENVIRONMENT", "KIND", "STATE", "WHERE"])
        for entry in self.environments {
            table.add([
                entry.isConnected ? "*" : "", entry.name.printable, entry.kind, entry.state, entry.location.printable,
            ])
            if let reason = entry.reason { table.note("Reason: \(reason.printable)") }
        }
        return table.text
    }
}

/// The output of `kl env status`, and of `up` and `connect`.
struct EnvironmentStatus: Encodable {
    struct Service: Codable {
        struct Port: Codable {
            var port: UInt16
            var target: UInt16
            var name: String?
            var transport = "tcp"

            var text: String {
                let number = "\(self.port)\(self.transport == "udp" ? "/udp" : "")"
                return self.name.map { "\(number) (\($0.printable))" } ?? number
            }
        }

        var name: String
        var state: String
        var reason: String?
        var replicas: Int
        var ports: [Port]
        /// The workspace that intercepts the service; the first one if several intercept different ports.
        var interceptedBy: String?
        /// Of a cluster's pods: entries of sidecars in their specifications, and how many of these have ended.
        var sidecarEntries: Environments.Service.Entries?
    }

    var isConnected: Bool
    var environment: String?
    var kind: String?
    /// `up`, `down` or `broken`.
    var state: String?
    var reason: String?
    var location: String?
    var services: [Service]
    var holders: [InterceptView]

    static let notConnected = EnvironmentStatus(isConnected: false, services: [], holders: [])

    private enum CodingKeys: CodingKey {
        case isConnected, environment, kind, state, reason, location, services, intercepts, mirrors
    }

    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(self.isConnected, forKey: .isConnected)
        try values.encodeIfPresent(self.environment, forKey: .environment)
        try values.encodeIfPresent(self.kind, forKey: .kind)
        try values.encodeIfPresent(self.state, forKey: .state)
        try values.encodeIfPresent(self.reason, forKey: .reason)
        try values.encodeIfPresent(self.location, forKey: .location)
        try values.encode(self.services, forKey: .services)
        try values.encode(self.holders.filter { $0.kind == .intercept && $0.through == nil }, forKey: .intercepts)
        try values.encode(self.holders.filter { $0.kind == .mirror && $0.through == nil }, forKey: .mirrors)
    }

    var text: String {
        guard let environment = self.environment else {
            return "Not connected to any environment.\nConnect to one with: kl env connect\n"
        }
        var result = "Environment:  \(environment.printable) (\(self.kind ?? "?"))   \(self.state ?? "?")\n"
        if let reason = self.reason { result += "Reason:       \(reason.printable)\n" }
        if let location = self.location { result += "Where:        \(location.printable)\n" }
        guard !self.services.isEmpty else { return result }
        let names = HolderNames(self.holders)
        var table = Table(["SERVICE", "STATE", "PORTS", "INTERCEPTED BY"])
        for service in self.services {
            let ports = service.ports.map(\.text)
            table.add([
                service.name.printable,
                service.state,
                ports.isEmpty ? "-" : ports.joined(separator: ", "),
                self.interceptedBy(service, names),
            ])
            if let reason = service.reason { table.note("Reason: \(reason.printable)") }
            let seen = self.holders.first { $0.service == service.name }?.originalSees
            if let ended = service.sidecarEntries?.ended, ended > 0 {
                let what = ended == 1 ? "an ended sidecar's entry" : "\(ended) ended sidecars' entries"
                table.note("Left over: \(what), in its pods' specifications as long as the pods live")
            }
            if let news = seen?.news { table.note("Original: \(news)") }
        }
        result += "\n" + table.text
        for (title, kind) in [("Intercepts", HoldingKind.intercept), ("Mirrors", .mirror)] {
            let holders = self.holders.filter { $0.kind == kind && $0.through == nil }
            guard !holders.isEmpty else { continue }
            result += "\n\(title):\n"
            for holder in holders {
                let ports = holder.ports.map(\.arrow).joined(separator: ", ")
                result += "  \(holder.service)   \(holder.phase.rawValue)   \(ports)   \(names.of(holder))\n"
            }
        }
        return result
    }

    /// `ada@thinkpad`; if several have different ports, `ada@thinkpad (80), grace@thinkpad (81)`.
    private func interceptedBy(_ service: Service, _ names: HolderNames) -> String {
        let holders = self.holders.filter {
            $0.service == service.name && $0.kind == .intercept && $0.phase != .failed
        }
        func name(_ holder: InterceptView) -> String {
            names.of(holder) + (holder.through.map { ", through \($0.printable)" } ?? "")
        }
        guard holders.count > 1 else { return holders.first.map(name) ?? service.interceptedBy?.printable ?? "-" }
        return holders.map { "\(name($0)) (\($0.ports.map(\.number).joined(separator: ", ")))" }
            .joined(separator: ", ")
    }
}
