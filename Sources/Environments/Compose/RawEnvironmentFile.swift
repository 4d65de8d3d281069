/// A file of variables of the format `raw`, as `docker run --env-file` has it: `NAME=VALUE` with all that stands behind the first
/// `=`, a NAME alone, and lines that begin with `#`.
enum RawEnvironmentFile {
    static func parse(_ text: String, file: Int = 0) throws(Fault) -> [EnvironmentFile.Line] {
        var result: [EnvironmentFile.Line] = []
        let lines = text.split(omittingEmptySubsequences: false) { $0 == "\n" || $0 == "\r\n" }
        for (index, raw) in lines.enumerated() {
            var line = raw.drop(while: \.isWhitespace)
            if index == 0, line.unicodeScalars.first == "\u{FEFF}" {
                line = Substring(line.unicodeScalars.dropFirst()).drop(while: \.isWhitespace)
            }
            if line.isEmpty || line.first == "#" { continue }
            let column = raw.unicodeScalars.count - line.unicodeScalars.count + 1
            let equals = line.firstIndex(of: "=")
            let name = line[..<(equals ?? line.endIndex)]
            guard !name.isEmpty, !name.contains(where: \.isWhitespace) else {
                let position = Position(line: index + 1, column: column, file: file)
                throw Fault(position, "\(String(line).quoted) sets no variable. Write NAME=VALUE.")
            }
            result.append(
                EnvironmentFile.Line(
                    name: String(name),
                    value: equals.map { String(line[line.index(after: $0)...]) },
                    isLiteral: true,
                    line: index + 1,
                    column: column
                )
            )
        }
        return result
    }
}
