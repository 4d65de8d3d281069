import Environments
import InterceptModel
import WorkspaceAPI

/// The output of `kl intercept start`.
struct StartView: Encodable {
    var intercept: InterceptView
    var steps: [StepView]
    var warnings: [String]
}

struct StepView: Codable {
    var name: String
    var seconds: Double
}

/// The output of `kl intercept stop`.
struct StopView: Codable {
    struct Stopped: Codable {
        var service: String
        var kind = HoldingKind.intercept
        /// If nothing answers for the service now: why.
        var reason: String?
        /// Connections since the intercept's start: those that went to the workspace, and those that were passed on to the
        /// original.
        var total: UInt64
        var passed: UInt64
        /// Of a mirror: copies that were reset, or not begun, because this workspace couldn't keep up.
        var behind: UInt64?
        /// Connections that were open at the stop, and how many of them were reset at the end of the drain time.
        var drained: UInt64
        var reset: UInt64
        var bytesIn: UInt64
        var bytesOut: UInt64
        var steps: [StepView]
        /// Other workspaces that intercept ports of the service, if there are any.
        var holders: [PortHolder]?
        /// They intercept all ports that were given up.
        var isTakenOver = false

        private enum CodingKeys: CodingKey {
            case service, kind, reason, total, passed, behind, drained, reset, bytesIn, bytesOut, steps, holders
        }

        /// For people, at the end.
        func sentence(for own: String) -> String {
            switch (self.kind, self.reason) {
            case (.mirror, _): return "Copies of traffic to \(self.service) no longer reach your workspace."
            case (.intercept, .some): return "The intercept of \(self.service) is over."
            case (.intercept, nil):
                guard let holders = self.holders else { return "\(self.service) answers from the environment again." }
                if self.isTakenOver {
                    let parts = holders.map { "\($0.shown(to: own)) answers for \($0.portsText) of \(self.service)" }
                    return parts.joined(separator: "; ") + "."
                }
                let parts = holders.map { "for \($0.portsText): \($0.shown(to: own)) answers there" }
                return "\(self.service) answers from the environment again, but \(parts.joined(separator: "; "))."
            }
        }
    }

    var environment: String
    var stopped: [Stopped]
}

extension PortHolder {
    fileprivate var portsText: String {
        "port\(self.ports.count == 1 ? "" : "s") \(self.ports.joined(separator: ", "))"
    }

    func shown(to own: String) -> String { Member(label: self.workspace, publicKey: self.publicKey).shown(to: own) }
}
