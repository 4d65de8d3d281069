/// `NAME=VALUE`, parted at the first `=`.
public struct Assignment: Equatable, Sendable {
    public var name: String
    public var value: String

    /// Nil: there is no `=`. By scalars, since a value may begin with one that Swift joins to the `=` as one character: an
    /// accent, say.
    public init?(_ text: some StringProtocol) {
        let scalars = text.unicodeScalars
        guard let equals = scalars.firstIndex(of: "=") else { return nil }
        self.name = String(text[..<equals])
        self.value = String(text[scalars.index(after: equals)...])
    }
}
