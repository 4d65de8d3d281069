import AgentSupport
import Environments
import InterceptProtocol
import WorkspaceDaemon

/// Why a command couldn't do what it was asked: one sentence of what is wrong, one of what to do, and an exit code that
/// scripts tell apart.
struct CommandFailure: Error, CustomStringConvertible, ExitCoded {
    enum Code: String {
        case failed
        case usage
        case notConnected
        case noSuchService
        case noSuchIntercept
        case busy
        case interrupted

        var exitCode: CInt {
            switch self {
            case .failed: Ending.failed
            case .usage: Ending.wrongUsage
            case .notConnected: 3
            case .noSuchService, .noSuchIntercept: 4
            case .busy: Ending.busy
            case .interrupted: Ending.interrupted
            }
        }
    }

    let code: Code
    let description: String

    init(_ code: Code, _ description: String) {
        self.code = code
        // Paths and names of others are in it: an error is one line, and nothing else for the terminal.
        self.description = String(String.UnicodeScalarView(description.unicodeScalars.map { $0.isVisible ? $0 : "?" }))
    }

    var exitCode: CInt { self.code.exitCode }

    static let notConnected = CommandFailure(
        .notConnected,
        "not connected to an environment. Connect first: kl env connect"
    )

    /// What another part threw, with the code that scripts expect of it.
    init(_ error: any Error) {
        switch error {
        case let failure as CommandFailure: self = failure
        case let error as EnvironmentError:
            let code: Code =
                switch error.code {
                case .failed, .file, .notUp: .failed
                case .noSuchService: .noSuchService
                case .busy: .busy
                }
            self.init(code, error.description)
        case let error as FlagError: self.init(.usage, error.description)
        default: self.init(.failed, "\(error)")
        }
    }

    init(_ failure: DaemonReply.Failure) {
        let code: Code =
            switch failure.code {
            case .failed, .notUp: .failed
            case .noSuchService: .noSuchService
            case .noSuchIntercept: .noSuchIntercept
            case .busy: .busy
            }
        self.init(code, failure.message)
    }
}
