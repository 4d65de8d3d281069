import Environments
import HostSupport

/// Parses a file of variables in the format `raw`, as `docker run --env-file` does: `NAME=VALUE`, where everything after
/// the first `=` is the value, a NAME alone, and comment lines that begin with `#`.
enum RawEnvironmentFile {
    static func parse(_ text: String, file: Int = 0) throws(Fault) -> [EnvironmentFile.Line] {
        var result: [EnvironmentFile.Line] = []
        // By Unicode scalars: a combining mark after a `#` or `=` would make it a different Character.
        let lines = text.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false)
        for (index, raw) in lines.enumerated() {
            var line = raw.last == "\r" ? raw.dropLast() : raw
            line = line.drop(while: \.properties.isWhitespace)
            if index == 0, line.first == "\u{FEFF}" { line = line.dropFirst().drop(while: \.properties.isWhitespace) }
            guard let first = line.first, first != "#" else { continue }
            let column = raw.distance(from: raw.startIndex, to: line.startIndex) + 1
            let content = String(String.UnicodeScalarView(line))
            let variable = Assignment(content)
            let name = variable?.name ?? content
            guard !name.isEmpty, !name.unicodeScalars.contains(where: \.properties.isWhitespace) else {
                let position = Position(line: index + 1, column: column, file: file)
                throw Fault(position, "\(content.quoted) sets no variable. Write NAME=VALUE.")
            }
            result.append(
                EnvironmentFile.Line(
                    name: name,
                    value: variable?.value,
                    isLiteral: true,
                    line: index + 1,
                    column: column
                )
            )
        }
        return result
    }
}
