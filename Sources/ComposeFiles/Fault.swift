import Environments
import InterceptModel

/// A place in a file, counted from 1.
struct Position: Hashable, Sendable {
    var line: Int
    var column: Int
    /// The file's number among those that are read together; 0 is the compose file itself.
    var file = 0
}

/// Something in the file can't be used. The text says what is wrong and what to do, in two sentences.
struct Fault: Error, Equatable {
    var position: Position
    var text: String

    init(_ position: Position, _ text: String) {
        self.position = position
        self.text = text
    }

    /// - Parameter paths: the files' paths, as messages name them.
    func error(in paths: [String]) -> Problem {
        Problem(.file, "\(self.position.text(in: paths)): \(self.text)")
    }
}

extension Position {
    /// `compose.yaml:7:14`
    func text(in paths: [String]) -> String {
        let path = paths.indices.contains(self.file) ? paths[self.file] : ""
        return "\(path):\(self.line):\(self.column)"
    }
}
