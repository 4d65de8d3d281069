extension String {
    /// Another program's words, without what moves a terminal's cursor or can't be seen, and without blanks around them.
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
