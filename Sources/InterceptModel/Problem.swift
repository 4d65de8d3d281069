/// What is wrong, and what to do about it: the error that a person sees, whichever part of kl found it.
///
/// Code decides by `code`, never by the words.
public struct Problem: Error, Hashable, Sendable {
    public enum Code: String, Codable, Sendable {
        case failed
        /// The command line is wrong.
        case usage
        /// The compose file, or something in it, can't be used.
        case file
        case notConnected
        /// The user has to log in again, by a program that isn't kl.
        case login
        /// Nothing of the environment runs.
        case notUp
        case noSuchService
        case noSuchIntercept
        /// Another workspace has the service.
        case busy
        case interrupted
    }

    public var code: Code
    /// A clause that follows "kl: ".
    public var what: String
    /// A sentence, or several. Nil: there is nothing to do, or `what` says it, as in sentences that another program sent.
    public var remedy: String?
    /// Warnings about the same file, one of which may be the cause: a key that lacks a letter, for example.
    public var warnings: [String] = []

    public init(_ code: Code, _ what: String, _ remedy: String? = nil) {
        self.code = code
        self.what = what
        self.remedy = remedy
    }
}

extension Problem: CustomStringConvertible {
    /// `'x' isn't a folder. Remove it.`
    public var description: String { self.remedy.map { "\(self.what). \($0)" } ?? self.what }
}
