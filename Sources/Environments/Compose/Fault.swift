import InterceptProtocol

/// Where something stands in a file, from 1.
struct Position: Equatable, Sendable {
    var line: Int
    var column: Int
}

/// Something in the file can't be used: what is wrong, and what to do, in two sentences.
struct Fault: Error, Equatable {
    var position: Position
    var text: String

    init(_ position: Position, _ text: String) {
        self.position = position
        self.text = text
    }

    func error(in path: String) -> EnvironmentError {
        EnvironmentError(.file, "\(path):\(self.position.line):\(self.position.column): \(self.text)")
    }
}

extension String {
    /// A file's words as a message shows them: in quotes, on one line, and not at length.
    var quoted: String {
        let text = self.prefix(61).map { $0.isNewline ? " " : $0 }
        let visible = String(String.UnicodeScalarView(String(text).unicodeScalars.filter(\.isVisible)))
        return visible.count > 60 ? "'\(visible.prefix(60))…'" : "'\(visible)'"
    }
}
