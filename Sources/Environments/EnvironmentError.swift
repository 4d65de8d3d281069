import HostSupport
import Libc

/// What is wrong, and what to do, in two sentences; `code` decides the program's exit code.
public struct EnvironmentError: Error, Equatable, CustomStringConvertible, Sendable {
    public enum Code: String, Codable, Sendable {
        case failed
        /// The file, or something in it, can't be used.
        case file
        case notUp
        case noSuchService
        case busy
    }

    public var code: Code
    public var description: String
    /// Warnings about the same file, one of which may be the cause: a key that lacks a letter, for example.
    public var warnings: [String] = []

    public init(_ code: Code, _ description: String) {
        self.code = code
        self.description = description
    }
}

extension EnvironmentError {
    /// Says what the system refused, with advice that fits the reason.
    package init(_ error: HostError) {
        let mend =
            switch error.code {
            case ENOSPC, EDQUOT: "Make room on that disk, then try again."
            case EROFS: "Copy the compose file to a folder that can be written, and use it there."
            case EACCES, EPERM: "Get the right to write there, or copy the compose file to a folder of your own."
            case EMFILE, ENFILE: "End programs that hold many files, or raise the limit (ulimit -n)."
            case EFBIG: "Nothing of kl's is that large: look what it is, and move it away."
            case ENAMETOOLONG: "Move the compose file to a folder with a shorter path."
            case ENOTDIR, EISDIR, ELOOP, ENOTSUP: "Look what is there, and move it away."
            default: "Fix that, then try again."
            }
        self.init(.failed, "\(error.description). \(mend)")
    }
}

extension Error {
    /// As a sentence for people.
    package var environmentError: EnvironmentError {
        switch self {
        case let error as EnvironmentError: error
        case let error as HostError: EnvironmentError(error)
        default: EnvironmentError(.failed, "\(self)")
        }
    }
}
