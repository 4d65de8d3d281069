import CommandText
import HostSupport
import InterceptModel

/// A problem as `kl` tells it: as its exit code, in sentences on standard error, and with `-o json` as an object.
struct ProblemView: Error, Encodable {
    struct Body: Encodable {
        var code: String
        var message: String
    }

    private enum CodingKeys: CodingKey {
        case error
    }

    let error: Body
    let exitCode: CInt

    init(_ error: any Error) {
        let problem =
            switch error {
            case let problem as Problem: problem
            case let error as FlagError: Problem(.usage, error.description)
            default: Problem(.failed, "\(error)")
            }
        // The text may contain paths and names from others: keep it on one line, without control characters.
        let visible = problem.description.unicodeScalars.map { $0.isVisible ? $0 : "?" }
        self.error = Body(code: problem.code.shown.rawValue, message: String(String.UnicodeScalarView(visible)))
        self.exitCode = problem.code.exitCode
    }
}

extension ProblemView: CustomStringConvertible, ExitCoded {
    var description: String { self.error.message }
}

extension Problem.Code {
    /// The codes that scripts know.
    fileprivate var shown: Problem.Code { [.file, .notUp, .login].contains(self) ? .failed : self }

    fileprivate var exitCode: CInt {
        switch self {
        case .failed, .file, .notUp, .login: Ending.failed
        case .usage: Ending.wrongUsage
        case .notConnected: 3
        case .noSuchService, .noSuchIntercept: 4
        case .busy: Ending.busy
        case .interrupted: Ending.interrupted
        }
    }
}
