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
        /// The workspace that intercepts it.
        var interceptedBy: String?
    }

    var isConnected: Bool
    var environment: String?
    var kind: String?
    /// `up`, `down` or `broken`.
    var state: String?
    var reason: String?
    var location: String?
    var services: [Service]
    var intercepts: [InterceptView]

    static let notConnected = EnvironmentStatus(isConnected: false, services: [], intercepts: [])

    var text: String {
        guard let environment = self.environment else {
            return "Not connected to any environment.\nConnect to one with: kl env connect\n"
        }
        var result = "Environment:  \(environment.printable) (\(self.kind ?? "?"))   \(self.state ?? "?")\n"
        if let reason = self.reason { result += "Reason:       \(reason.printable)\n" }
        if let location = self.location { result += "Where:        \(location.printable)\n" }
        guard !self.services.isEmpty else { return result }
        var table = Table(["SERVICE", "STATE", "PORTS", "INTERCEPTED BY"])
        for service in self.services {
            let ports = service.ports.map(\.text)
            table.add([
                service.name.printable,
                service.state,
                ports.isEmpty ? "-" : ports.joined(separator: ", "),
                service.interceptedBy?.printable ?? "-",
            ])
            if let reason = service.reason { table.note("Reason: \(reason.printable)") }
        }
        result += "\n" + table.text
        if !self.intercepts.isEmpty {
            result += "\nIntercepts:\n"
            for intercept in self.intercepts {
                let ports = intercept.ports.map(\.arrow).joined(separator: ", ")
                result +=
                    "  \(intercept.service)   \(intercept.phase.rawValue)   \(ports)   \(intercept.workspace.printable)\n"
            }
        }
        return result
    }
}
