import InterceptModel

extension String {
    /// Another program's output without characters that move a terminal's cursor or are invisible, and without surrounding
    /// blanks.
    public var visibleText: String {
        let visible = self.unicodeScalars.filter(\.isVisible)
        let characters = String(String.UnicodeScalarView(visible)).drop { $0.isWhitespace }
        return String(characters.reversed().drop { $0.isWhitespace }.reversed())
    }

    /// A long command, shortened at a blank to fit on a line with other words.
    public var abbreviatedCommand: String {
        guard self.count > Self.commandAtMost else { return self }
        var text = ""
        for word in self.split(separator: " ") {
            guard text.isEmpty || text.count + word.count < Self.commandAtMost else { break }
            text += text.isEmpty ? String(word.prefix(Self.commandAtMost)) : " \(word)"
        }
        return text + " …"
    }

    /// A bit longer than a TCP address can be.
    private static let commandAtMost = 48
}
