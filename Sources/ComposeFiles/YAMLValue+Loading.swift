import Environments
import Yams

extension YAMLValue {
    /// Nil: there is nothing in the file but comments.
    ///
    /// - Parameter file: the file's number in positions.
    static func load(_ text: String, file: Int = 0) throws(Fault) -> YAMLValue? {
        let begin = Position(line: 1, column: 1, file: file)
        // A byte order mark, which some editors write.
        let text = text.unicodeScalars.first == "\u{FEFF}" ? String(text.unicodeScalars.dropFirst()) : text
        // Yams replaces an alias by a copy of its value, and hashes keys by everything in them. A few lines of aliases of
        // aliases would keep it busy for ever, or overflow the stack. So Yams never sees an alias: each '*' of the text is
        // replaced by a character that the text doesn't contain, and a plain scalar that begins with it is resolved here.
        guard let marker = Self.privateUse.first(where: { !text.unicodeScalars.contains($0) }) else {
            throw Fault(begin, "the file is full of private-use characters. Correct the file.")
        }
        let marked = text.replacing("*", with: marker)
        var loader = Loader(marker: marker, file: file)
        do {
            // Nodes refer to their anchors weakly, so the parser must stay alive. `.basic` leaves every scalar a string.
            let parser = try Parser(yaml: marked, resolver: .basic, encoding: .utf8)
            return try withExtendedLifetime(parser) {
                guard let root = try parser.singleRoot() else { return nil }
                return try loader.value(of: root)
            }
        } catch let fault as Fault {
            throw fault
        } catch let error as YamlError {
            var fault = Fault(error, restoring: { $0.replacing(marker, with: "*") })
            fault.position.file = file
            throw fault
        } catch {
            throw Fault(begin, "the file can't be read as YAML. Correct the file.")
        }
    }

    private static let privateUse = (UInt32(0xE000)...0xE0FF).compactMap(Unicode.Scalar.init)
}

private struct Loader {
    let marker: Unicode.Scalar
    let file: Int
    private var anchors: [String: YAMLValue] = [:]
    private var merged = 0

    init(marker: Unicode.Scalar, file: Int) {
        self.marker = marker
        self.file = file
    }

    /// † Compose files are a few levels deep.
    private static let maxHeight = 100
    /// Several times the file's own limit of 1 MiB, for values that are written once and used by every service.
    private static let maxWeight = 8 * 1_048_576
    private static let maxMerged = 200_000

    mutating func value(of node: Node, isKey: Bool = false) throws(Fault) -> YAMLValue {
        let position = self.position(node.mark)
        var value: YAMLValue
        switch node {
        case .scalar(let scalar):
            if scalar.style == .plain, scalar.string.unicodeScalars.first == self.marker {
                return try self.target(ofAlias: self.restored(scalar.string), at: position)
            }
            // A tag `!!str` makes a scalar text, as quotes do. On keys Yams sets that tag itself, to compare them, so it is
            // ignored there.
            let isText = !isKey && scalar.tag.description == Tag.Name.str.rawValue
            let isPlain = scalar.style == .plain && !isText
            value = YAMLValue(self.restored(scalar.string), isPlain: isPlain, at: position)
        case .sequence(let sequence):
            var elements: [YAMLValue] = []
            var weight = 0
            for element in sequence {
                let value = try self.value(of: element)
                weight += value.weight
                try self.check(weight, at: position)
                // As in compose, an element with `!reset` is dropped.
                if value.change != .reset { elements.append(value) }
            }
            value = YAMLValue(elements, at: position)
        case .mapping(let mapping): value = try self.value(of: mapping, at: position)
        case .alias: throw Fault(position, "an alias can't be used here. Write out what it stands for.")
        }
        guard value.height <= Self.maxHeight else {
            throw Fault(position, "more than \(Self.maxHeight) values lie in one another here. Correct the file.")
        }
        if let change = Self.change(node) { value.change = change }
        if let anchor = node.anchor { self.anchors[self.restored(anchor.rawValue)] = value }
        return value
    }

    private mutating func value(of mapping: Node.Mapping, at position: Position) throws(Fault) -> YAMLValue {
        var own: [YAMLValue.Entry] = []
        var bases: [YAMLValue] = []
        var weight = 0
        for (key, value) in mapping {
            let keyPosition = self.position(key.mark)
            guard case .scalar(let text, let isPlain) = try self.value(of: key, isKey: true).kind else {
                throw Fault(keyPosition, "a list or a mapping can't be a key. Correct the file.")
            }
            let entry = YAMLValue.Entry(key: text, position: keyPosition, value: try self.value(of: value))
            weight += entry.weight
            try self.check(weight, at: position)
            guard text == "<<", isPlain else {
                own.append(entry)
                continue
            }
            if case .sequence(let several) = entry.value.kind { bases += several } else { bases.append(entry.value) }
        }
        guard !bases.isEmpty else { return YAMLValue(own, at: position) }
        // https://yaml.org/type/merge.html: the mapping's own keys win, then those of earlier bases.
        var known = Set(own.map(\.key))
        for base in bases {
            guard case .mapping(let entries) = base.kind else {
                throw Fault(base.position, "'<<' takes mappings, and this is \(base.whatItIs). Correct the file.")
            }
            self.merged += entries.count
            guard self.merged <= Self.maxMerged else { throw self.tooMuch(at: position) }
            own += entries.filter { known.insert($0.key).inserted }
        }
        return YAMLValue(own, at: position)
    }

    private func target(ofAlias text: String, at position: Position) throws(Fault) -> YAMLValue {
        let name = text.dropFirst()
        let isAlias = !name.isEmpty && name.utf8.allSatisfy { $0.isAlphanumeric || $0 == 0x2D || $0 == 0x5F }
        guard isAlias else {
            throw Fault(position, "\(text.quoted) begins with '*', which is an alias in YAML. Put it in quotes.")
        }
        guard let target = self.anchors[String(name)] else {
            throw Fault(
                position,
                "\(text.quoted) stands for nothing: there is no '&\(name.prefix(60))' before it. Write it at the value that is meant."
            )
        }
        return target
    }

    private static func change(_ node: Node) -> YAMLValue.Change? {
        let tag =
            switch node {
            case .scalar(let scalar): scalar.tag
            case .sequence(let sequence): sequence.tag
            case .mapping(let mapping): mapping.tag
            case .alias(let alias): alias.tag
            }
        return switch tag.description {
        case "!reset": .reset
        case "!override": .replace
        default: nil
        }
    }

    private func position(_ mark: Mark?) -> Position {
        Position(line: mark?.line ?? 1, column: mark?.column ?? 1, file: self.file)
    }

    private func check(_ weight: Int, at position: Position) throws(Fault) {
        guard weight <= Self.maxWeight else { throw self.tooMuch(at: position) }
    }

    private func tooMuch(at position: Position) -> Fault {
        Fault(position, "with its aliases written out this is more than 8 MiB. Use fewer.")
    }

    private func restored(_ text: String) -> String {
        text.replacing(self.marker, with: "*")
    }
}

extension String {
    /// By Unicode scalars: a '*' with a combining mark is one Character, but not YAML's '*'.
    fileprivate func replacing(_ scalar: Unicode.Scalar, with other: Unicode.Scalar) -> String {
        guard self.unicodeScalars.contains(scalar) else { return self }
        return String(String.UnicodeScalarView(self.unicodeScalars.lazy.map { $0 == scalar ? other : $0 }))
    }
}

extension Position {
    fileprivate init(_ mark: Mark?) {
        self.init(line: mark?.line ?? 1, column: mark?.column ?? 1)
    }

    /// - Parameter offset: in characters.
    fileprivate init(_ offset: Int?, in text: String) {
        let before = text.prefix(offset ?? 0)
        let line = 1 + before.count { $0.isNewline }
        let column =
            1
            + (before.lastIndex { $0.isNewline }.map { before.distance(from: $0, to: before.endIndex) - 1 }
                ?? before.count)
        self.init(line: line, column: column)
    }
}

extension Fault {
    fileprivate init(_ error: YamlError, restoring: (String) -> String) {
        switch error {
        case .scanner(let context, let problem, let mark, let text),
            .parser(let context, let problem, let mark, let text):
            if Self.isTab(at: mark, in: text) {
                self.init(Position(mark), "there is a tab where YAML takes blanks only. Indent with blanks.")
                return
            }
            let context = context.map { " \($0.text) that began at line \($0.mark.line)" } ?? ""
            self.init(Position(mark), "this isn't YAML: \(problem)\(context). Correct the file there.")
        case .composer(_, let problem, let mark, _):
            let isSecond = problem == "but found another document"
            self.init(
                Position(mark),
                isSecond
                    ? "a second document begins here. Keep one in the file."
                    : "this isn't YAML: \(problem). Correct the file there."
            )
        case .reader(let problem, let offset, _, let text):
            self.init(Position(offset, in: text), "this isn't text: \(problem). Correct the file there.")
        case .duplicatedKeysInMapping(let duplicates, let context):
            let marked = duplicates.first ?? ""
            let key = restoring(marked).quoted
            let first = Position(context.mark)
            guard let second = DuplicateKey(marked, at: first, in: context.text).second else {
                self.init(first, "the key \(key) is there more than once. Keep one of them.")
                return
            }
            let place = second.line == first.line ? "column \(first.column)" : "line \(first.line)"
            self.init(second, "the key \(key) is there already (\(place)). Keep one of them.")
        default:
            self.init(Position(line: 1, column: 1), "the file can't be read as YAML. Correct the file.")
        }
    }

    private static func isTab(at mark: Mark, in text: String) -> Bool {
        let line = text.split(separator: "\n", maxSplits: mark.line, omittingEmptySubsequences: false).dropFirst(
            mark.line - 1
        )
        return line.first?.unicodeScalars.dropFirst(mark.column - 1).first == "\t"
    }
}
