import Environments
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
        /// If nothing answers for the service now: why.
        var reason: String?
        /// Connections since the intercept's start: those that went to the workspace, and those that were passed on to the
        /// original.
        var total: UInt64
        var passed: UInt64
        /// Connections that were open at the stop, and how many of them were reset at the end of the drain time.
        var drained: UInt64
        var reset: UInt64
        var bytesIn: UInt64
        var bytesOut: UInt64
        var steps: [StepView]
    }

    var environment: String
    var stopped: [Stopped]
}
