/// `NAME=VALUE`, split at the first `=`.
public struct Assignment: Equatable, Sendable {
    public var name: String
    public var value: String

    /// nil if there is no `=`. Searched by scalars, as Swift joins the `=` with a following combining character, such as an
    /// accent.
    public init?(_ text: some StringProtocol) {
        let scalars = text.unicodeScalars
        guard let equals = scalars.firstIndex(of: "=") else { return nil }
        self.name = String(text[..<equals])
        self.value = String(text[scalars.index(after: equals)...])
    }
}
