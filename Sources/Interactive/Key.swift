/// A key press, as a picker or a prompt understands it.
public enum Key: Hashable, Sendable {
    /// A typed or pasted character. A combining mark may come by itself, after the character that it belongs to.
    case character(Character)
    case enter
    case tab
    /// Shift-Tab.
    case backTab
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
    /// Ctrl with a letter: `.control("c")`.
    case control(Character)
}
