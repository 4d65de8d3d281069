import Environments
import WorkspaceDaemon

/// What `kl intercept start` did.
struct StartView: Codable {
    var intercept: InterceptView
    var steps: [StepView]
    var warnings: [String]
}

struct StepView: Codable {
    var name: String
    var seconds: Double
}

/// What `kl intercept stop` did.
struct StopView: Codable {
    struct Stopped: Codable {
        var service: String
        /// Why nothing answers there now, where nothing does.
        var reason: String?
        /// Connections since its start: those that went to the workspace, and those that came back to the original.
        var total: UInt64
        var passed: UInt64
        /// Open at the stop, and those of them that were reset when the drain time was over.
        var drained: UInt64
        var reset: UInt64
        var bytesIn: UInt64
        var bytesOut: UInt64
        var steps: [StepView]
    }

    var environment: String
    var stopped: [Stopped]
}
