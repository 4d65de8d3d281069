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

        /// For people, at the end.
        var sentence: String {
            switch (self.kind, self.reason) {
            case (.mirror, _): "Copies of traffic to \(self.service) no longer reach your workspace."
            case (.intercept, nil): "\(self.service) answers from the environment again."
            case (.intercept, _): "The intercept of \(self.service) is over."
            }
        }
    }

    var environment: String
    var stopped: [Stopped]
}
