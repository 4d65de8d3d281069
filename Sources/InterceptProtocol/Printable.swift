extension String {
    /// A peer's string, safe to show: at most 256 bytes, and only what can be seen.
    public var printable: String {
        // A scalar has at least one byte: there is no need to look at more of them than may be kept.
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
    /// Neither a control character nor what ends a line, turns a terminal's writing direction around, or can't be seen.
    public var isVisible: Bool {
        switch self.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned: false
        default: true
        }
    }
}
