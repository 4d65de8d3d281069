/// What a key led to.
public enum DialogueAction<Choice: Equatable & Sendable>: Equatable, Sendable {
    case `continue`
    case chosen(Choice)
    /// Esc: the person doesn't want to choose.
    case cancelled
    /// Ctrl-C: the person wants the program to end.
    case interrupted
}

/// How a dialogue ended.
public enum DialogueResult<Choice: Equatable & Sendable>: Equatable, Sendable {
    case chosen(Choice)
    case cancelled
    case interrupted
}

/// Something that is asked, as a value: keys go in, screens come out. `Terminal` joins it to a terminal, a test to whatever
/// it likes.
protocol Dialogue {
    associatedtype Choice: Equatable & Sendable

    var symbols: Symbols { get set }

    mutating func handle(_ key: Key) -> DialogueAction<Choice>

    /// At most `height` rows, none wider than `width`.
    func screen(width: Int, height: Int) -> Screen

    /// What stays on the terminal once it is answered.
    func record(of choice: Choice) -> String?
}
