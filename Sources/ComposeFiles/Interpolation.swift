import Environments

/// Expands `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:+instead}`, `${NAME+instead}`,
/// `${NAME:?error}`, `${NAME?error}` and `$$`, as compose does. A `$` before anything else stays a `$`.
struct Interpolation {
    var environment: [String: String]
    /// Variables that had neither a value nor a default, each once per file.
    private(set) var missing: [(name: String, position: Position)] = []
    private var known: Set<Missing> = []
    private var rest = Self.maxExpanded

    private struct Missing: Hashable {
        var name: String
        var file: Int
    }

    init(environment: [String: String]) { self.environment = environment }

    /// The most bytes that all values together may expand to: a long variable may be used many times.
    private static let maxExpanded = 8 * 1_048_576
    /// † Nesting of defaults within defaults.
    private static let maxDepth = 16

    mutating func expand(_ text: String, at position: Position) throws(Fault) -> String {
        guard text.utf8.contains(UInt8(ascii: "$")) else { return text }
        return try self.expand(Array(text.utf8)[...], at: position, depth: 0)
    }

    private mutating func expand(_ text: ArraySlice<UInt8>, at position: Position, depth: Int) throws(Fault) -> String {
        guard depth <= Self.maxDepth else {
            throw Fault(position, "defaults lie in one another more than \(Self.maxDepth) deep. Correct the file.")
        }
        var result: [UInt8] = []
        var text = text
        while let dollar = text.firstIndex(of: UInt8(ascii: "$")) {
            result += text[..<dollar]
            text = text[(dollar + 1)...]
            switch text.first {
            case UInt8(ascii: "$"):
                result.append(UInt8(ascii: "$"))
                text = text.dropFirst()
            case UInt8(ascii: "{"):
                guard let end = Self.end(ofBraces: text) else {
                    throw Fault(position, "a '${' has no '}'. Close it, or write '$$' for a '$' itself.")
                }
                let inner = text[(text.startIndex + 1)..<end]
                result += try self.value(ofBraces: inner, at: position, depth: depth).utf8
                text = text[(end + 1)...]
            default:
                let name = Self.name(at: text)
                guard !name.isEmpty else {
                    result.append(UInt8(ascii: "$"))
                    continue
                }
                result += self.value(of: name, at: position).utf8
                text = text.dropFirst(name.utf8.count)
            }
            guard result.count <= self.rest else {
                throw Fault(position, "with its variables the file is more than 8 MiB. Use shorter values.")
            }
        }
        result += text
        // A nested default is counted twice, by its own call and by the enclosing one; the limit still holds.
        self.rest -= min(self.rest, result.count)
        return String(decoding: result, as: UTF8.self)
    }

    private mutating func value(
        ofBraces inner: ArraySlice<UInt8>,
        at position: Position,
        depth: Int
    ) throws(Fault) -> String {
        let name = Self.name(at: inner)
        var operation = inner.dropFirst(name.utf8.count)
        guard !name.isEmpty else { throw Self.wrong(inner, at: position) }
        guard !operation.isEmpty else { return self.value(of: name, at: position) }
        var value = self.environment[name]
        if operation.first == UInt8(ascii: ":") {
            operation = operation.dropFirst()
            if value == "" { value = nil }
        }
        let word = operation.dropFirst()
        switch operation.first {
        case UInt8(ascii: "-"):
            if let value { return value }
            return try self.expand(word, at: position, depth: depth + 1)
        case UInt8(ascii: "+"): return value == nil ? "" : try self.expand(word, at: position, depth: depth + 1)
        case UInt8(ascii: "?"):
            if let value { return value }
            let reason = try self.expand(word, at: position, depth: depth + 1)
            let clause = reason.isEmpty ? "" : ": \(reason.quoted.dropFirst().dropLast())"
            throw Fault(position, "the variable \(name.quoted) isn't set\(clause). Set it, then try again.")
        default: throw Self.wrong(inner, at: position)
        }
    }

    private mutating func value(of name: String, at position: Position) -> String {
        if let value = self.environment[name] { return value }
        if self.known.insert(Missing(name: name, file: position.file)).inserted {
            self.missing.append((name, position))
        }
        return ""
    }

    private static func wrong(_ inner: ArraySlice<UInt8>, at position: Position) -> Fault {
        let text = "${\(String(decoding: inner, as: UTF8.self))}"
        return Fault(
            position,
            "\(text.quoted) isn't a variable. Write ${NAME} or ${NAME:-default}, or '$$' for a '$' itself."
        )
    }

    private static func name(at text: ArraySlice<UInt8>) -> String {
        guard let first = text.first, first.isLetter || first == UInt8(ascii: "_") else { return "" }
        return String(decoding: text.prefix { $0.isAlphanumeric || $0 == UInt8(ascii: "_") }, as: UTF8.self)
    }

    /// The index of the brace that closes the one at the beginning of `text`. A default may hold braces, as JSON does. If
    /// they don't pair, the last closing brace of the line is taken.
    private static func end(ofBraces text: ArraySlice<UInt8>) -> Int? {
        var depth = 0
        for (index, byte) in zip(text.indices, text) {
            if byte == UInt8(ascii: "{") { depth += 1 }
            if byte == UInt8(ascii: "}") {
                depth -= 1
                if depth == 0 { return index }
            }
        }
        let line = text.prefix { $0 != UInt8(ascii: "\n") }
        return line.lastIndex(of: UInt8(ascii: "}"))
    }
}
