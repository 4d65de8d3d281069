import Libc

/// Why nothing could be asked.
public enum TerminalError: Error, Equatable, CustomStringConvertible, Sendable {
    /// Standard input or error isn't a terminal.
    case notATerminal
    /// The terminal went away during a question.
    case closed
    /// Another question is already open.
    case busy
    case system(what: String, code: CInt)

    public var description: String {
        switch self {
        case .notATerminal: "there is no terminal to ask on. Give what is missing as arguments (see --help)."
        case .closed: "the terminal was closed before the question was answered. Run it again."
        case .busy: "another question is open in this terminal. Answer that one first."
        case .system(let what, let code):
            "\(what): \(strerror(code).map { String(cString: $0) } ?? "error \(code)"). Give what is missing as arguments."
        }
    }

    static func last(_ what: String) -> TerminalError { .system(what: what, code: errno) }
}
