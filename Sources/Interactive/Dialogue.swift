/// The effect of a key press.
public enum DialogueAction<Choice: Equatable & Sendable>: Equatable, Sendable {
    case `continue`
    case chosen(Choice)
    /// Esc: the user doesn't want to choose.
    case cancelled
    /// Ctrl-C: the user wants to end the program.
    case interrupted
}

/// How a dialogue ended.
public enum DialogueResult<Choice: Equatable & Sendable>: Equatable, Sendable {
    case chosen(Choice)
    case cancelled
    case interrupted
}

/// A question to the user, as a value: keys go in, screens come out. `Terminal` connects it to a terminal; tests call it
/// directly.
protocol Dialogue {
    associatedtype Choice: Equatable & Sendable

    var symbols: Symbols { get set }

    mutating func handle(_ key: Key) -> DialogueAction<Choice>

    /// At most `height` rows, none wider than `width`.
    func screen(width: Int, height: Int) -> Screen

    /// The line that stays on the terminal after the answer.
    func record(of choice: Choice) -> String?
}
