import InterceptModel

extension String {
    /// Text of a file as a message shows it: in quotes, on one line, and shortened to 60 characters.
    package var quoted: String {
        let text = self.prefix(61).map { $0.isNewline ? " " : $0 }
        let visible = String(String.UnicodeScalarView(String(text).unicodeScalars.filter(\.isVisible)))
        return visible.count > 60 ? "'\(visible.prefix(60))…'" : "'\(visible)'"
    }

    /// Quoted as one word for a shell, if it needs quotes.
    package var shellQuoted: String {
        let isPlain = !self.isEmpty && self.utf8.allSatisfy { $0.isAlphanumeric || "/._-+,:@%=".utf8.contains($0) }
        return isPlain ? self : "'\(self.replacing("'", with: "'\\''"))'"
    }
}

extension UInt8 {
    package var isAlphanumeric: Bool { self.isLetter || self.isDigit }
    package var isLetter: Bool { (0x41...0x5A).contains(self) || (0x61...0x7A).contains(self) }
    package var isDigit: Bool { (0x30...0x39).contains(self) }
}
