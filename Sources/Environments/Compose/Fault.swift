import InterceptProtocol

/// Where something stands in a file, from 1.
struct Position: Hashable, Sendable {
    var line: Int
    var column: Int
    /// Which of the files that are read together; 0 is the compose file itself.
    var file = 0
}

/// Something in the file can't be used: what is wrong, and what to do, in two sentences.
struct Fault: Error, Equatable {
    var position: Position
    var text: String

    init(_ position: Position, _ text: String) {
        self.position = position
        self.text = text
    }

    /// - Parameter paths: of the files, as messages name them.
    func error(in paths: [String]) -> EnvironmentError {
        EnvironmentError(.file, "\(self.position.text(in: paths)): \(self.text)")
    }
}

extension Position {
    /// `compose.yaml:7:14`
    func text(in paths: [String]) -> String {
        let path = paths.indices.contains(self.file) ? paths[self.file] : ""
        return "\(path):\(self.line):\(self.column)"
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
