import CommandText
import Environments
import HostSupport
import InterceptModel
import InterceptProtocol
import WorkspaceAPI

/// Why a command failed: one sentence for what is wrong, one for what to do, and an exit code for scripts.
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
        // The text may contain paths and names from others: keep it on one line, without control characters.
        self.description = String(String.UnicodeScalarView(description.unicodeScalars.map { $0.isVisible ? $0 : "?" }))
    }

    var exitCode: CInt { self.code.exitCode }

    static let notConnected = CommandFailure(
        .notConnected,
        "not connected to an environment. Connect first: kl env connect"
    )

    /// Turns any error into one with the exit code that scripts expect.
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
