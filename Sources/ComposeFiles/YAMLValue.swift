import Environments

/// A value of a YAML file, with its position. Aliases and merge keys (`<<`) are already replaced by what they refer to.
struct YAMLValue: Sendable {
    enum Kind: Sendable {
        case scalar(String, isPlain: Bool)
        case sequence([YAMLValue])
        case mapping([Entry])
    }

    struct Entry: Sendable {
        var key: String
        var position: Position
        var value: YAMLValue

        /// `!reset`: earlier values for this key are dropped, and this value itself is ignored.
        var isReset: Bool { self.value.change == .reset }
    }

    /// The tags `!reset` and `!override`, which say what happens to an earlier file's value in the same place.
    enum Change: Sendable {
        case reset
        case replace
    }

    var kind: Kind
    var position: Position
    var change: Change?
    /// Roughly the bytes the value would take if its aliases were written out.
    let weight: Int
    /// The depth of nesting.
    let height: Int

    init(_ text: String, isPlain: Bool, at position: Position) {
        self.kind = .scalar(text, isPlain: isPlain)
        self.position = position
        self.weight = Self.weightOfOne + text.utf8.count
        self.height = 1
    }

    init(_ elements: [YAMLValue], at position: Position) {
        self.kind = .sequence(elements)
        self.position = position
        self.weight = elements.reduce(Self.weightOfOne) { $0 + $1.weight }
        self.height = 1 + (elements.map(\.height).max() ?? 0)
    }

    init(_ entries: [Entry], at position: Position) {
        self.kind = .mapping(entries)
        self.position = position
        self.weight = entries.reduce(Self.weightOfOne) { $0 + $1.weight }
        self.height = 1 + (entries.map(\.value.height).max() ?? 0)
    }

    static let weightOfOne = 16

    /// `key:` with nothing after it, `~`, `null`.
    var isNull: Bool {
        guard case .scalar(let text, isPlain: true) = self.kind else { return false }
        return ["", "~", "null", "Null", "NULL"].contains(text)
    }

    /// "a list", for messages.
    var whatItIs: String {
        switch self.kind {
        case .scalar(let text, _): self.isNull ? "nothing" : text.quoted
        case .sequence: "a list"
        case .mapping: "a mapping"
        }
    }
}

extension YAMLValue.Entry {
    var weight: Int { YAMLValue.weightOfOne + self.key.utf8.count + self.value.weight }
}
