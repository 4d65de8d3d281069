import Foundation

/// A committed file of what the programs write for others: to a socket, to the disk, for people. A test makes each entry
/// anew and compares it byte for byte, so that a change of names, keys or words can't go unnoticed.
///
/// ```
/// === the entry's name
/// its text, which may have several lines
/// ```
///
/// After a change that is meant, write the files anew with `KL_STORE_GOLDEN=1`, and read the difference before you commit it.
public struct GoldenFile {
    private let path: String
    private var entries: [Entry] = []

    private struct Entry {
        var name: String
        var text: String
        /// Whether the committed text is decoded to the value that was encoded.
        var isReadBack: (String) -> Bool = { _ in true }
    }

    /// - Parameter test: the test's file; the golden file is in the folder `Golden` beside it.
    public init(_ name: String, of test: String = #filePath) {
        let folder = test.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        self.path = "\(folder)/Golden/\(name).txt"
    }

    public mutating func add(_ name: String, _ text: String) {
        self.entries.append(Entry(name: name, text: text))
    }

    /// Adds the value as JSON, on one line unless it is `pretty`. The committed text must be decoded to the same value.
    public mutating func add<Value: Codable & Equatable>(_ name: String, json value: Value, pretty: Bool = false) throws
    {
        let text = try Self.json(value, pretty: pretty)
        self.entries.append(
            Entry(name: name, text: text) { stored in
                (try? JSONDecoder().decode(Value.self, from: Data(stored.utf8))) == value
            }
        )
    }

    public static func json(_ value: some Encodable, pretty: Bool = false) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if pretty { encoder.outputFormatting.insert(.prettyPrinted) }
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    /// Where the entries differ from the committed file; empty: nowhere.
    public func differences() throws -> [String] {
        let text = self.entries.map { "=== \($0.name)\n\($0.text)\n" }.joined()
        if ProcessInfo.processInfo.environment["KL_STORE_GOLDEN"] != nil {
            try Data(text.utf8).write(to: URL(filePath: self.path))
        }
        guard let data = try? Data(contentsOf: URL(filePath: self.path)) else { return ["\(self.path) isn't there"] }
        let stored = Self.entries(of: String(decoding: data, as: UTF8.self))
        var found: [String] = []
        for entry in self.entries {
            guard let known = stored.first(where: { $0.name == entry.name }) else {
                found.append("'\(entry.name)' isn't in the file")
                continue
            }
            if known.text != entry.text { found.append("'\(entry.name)' was\n\(known.text)\nand is\n\(entry.text)") }
            if !entry.isReadBack(known.text) { found.append("'\(entry.name)' is read as another value") }
        }
        if stored.map(\.name) != self.entries.map(\.name) { found.append("the entries or their order are others") }
        return found
    }

    private static func entries(of text: String) -> [(name: String, text: String)] {
        var result: [(name: String, text: String)] = []
        var lines: [Substring] = []
        func end() { if !result.isEmpty { result[result.count - 1].text = lines.joined(separator: "\n") } }
        for line in text.dropLast().split(separator: "\n", omittingEmptySubsequences: false) {
            guard line.hasPrefix("=== ") else {
                lines.append(line)
                continue
            }
            end()
            lines = []
            result.append((String(line.dropFirst(4)), ""))
        }
        end()
        return result
    }
}
