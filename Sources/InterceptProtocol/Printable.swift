extension String {
    /// A peer's string, safe to show: at most 256 bytes, without control characters and without what turns a terminal's
    /// writing direction around or can't be seen.
    public var printable: String {
        let visible = self.unicodeScalars.lazy.filter { scalar in
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned: false
            default: true
            }
        }
        // A scalar has at most 4 bytes: there is no need to look at more of them than may be kept.
        let characters = String(String.UnicodeScalarView(visible.prefix(Self.printableByteCount)))
        var result = ""
        for character in characters {
            guard result.utf8.count + character.utf8.count <= Self.printableByteCount else { break }
            result.append(character)
        }
        return result
    }

    private static let printableByteCount = 256
}
