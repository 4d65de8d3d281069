/// A key that was pressed, as a picker or a prompt understands it.
public enum Key: Hashable, Sendable {
    /// What was typed or pasted. A combining mark may come by itself, after the character that it belongs to.
    case character(Character)
    case enter
    case tab
    /// Shift and Tab.
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
    /// Ctrl and a letter: `.control("c")`.
    case control(Character)
}
