/// A key that was pressed, as a picker or a prompt understands it.
public enum Key: Hashable, Sendable {
    case character(Character)
    case enter
    case tab
    case escape
    case backspace
    case up
    case down
    case pageUp
    case pageDown
    case left
    case right
    case home
    case end
    case delete
    /// Ctrl and a letter: `.control("c")`.
    case control(Character)
}
