extension String {
    /// A peer's string made safe to show: at most 256 bytes, and only visible characters.
    public var printable: String {
        // Each scalar takes at least one byte, so no more of them than the limit need be looked at.
        let visible = self.unicodeScalars.lazy.filter(\.isVisible).prefix(Self.printableByteCount)
        var result = ""
        for character in String(String.UnicodeScalarView(visible)) {
            guard result.utf8.count + character.utf8.count <= Self.printableByteCount else { break }
            result.append(character)
        }
        return result
    }

    private static let printableByteCount = 256
}

extension Unicode.Scalar {
    /// False for control characters, line separators, characters that change a terminal's writing direction, and invisible ones.
    public var isVisible: Bool {
        switch self.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned: false
        default: true
        }
    }
}
