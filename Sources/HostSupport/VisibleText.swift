extension String {
    /// Another program's output without characters that move a terminal's cursor or are invisible, and without surrounding
    /// blanks.
    public var visibleText: String {
        let visible = self.unicodeScalars.filter {
            switch $0.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .unassigned: false
            default: true
            }
        }
        let characters = String(String.UnicodeScalarView(visible)).drop { $0.isWhitespace }
        return String(characters.reversed().drop { $0.isWhitespace }.reversed())
    }
}
