import HostSupport

/// A file of variables of the format `raw`, as `docker run --env-file` has it: `NAME=VALUE` with all that stands behind the first
/// `=`, a NAME alone, and lines that begin with `#`.
enum RawEnvironmentFile {
    static func parse(_ text: String, file: Int = 0) throws(Fault) -> [EnvironmentFile.Line] {
        var result: [EnvironmentFile.Line] = []
        // By scalars: an emoji or an accent may make one character of a `#` or `=` and what follows it.
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
