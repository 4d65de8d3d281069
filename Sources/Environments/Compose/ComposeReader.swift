import HostSupport

/// Reads the values of one compose file, and collects what there is to warn of.
struct ComposeReader {
    /// As messages name it.
    let path: String
    /// The file's, absolute.
    let folder: String
    var interpolation: Interpolation
    private(set) var warnings: [String] = []
    private var unsaid = 0

    /// † More aren't read.
    private static let maxWarnings = 50

    init(path: String, folder: String, environment: [String: String]) {
        self.path = path
        self.folder = folder
        self.interpolation = Interpolation(environment: environment)
    }

    mutating func warn(_ position: Position, _ text: String) {
        guard self.warnings.count < Self.maxWarnings else {
            self.unsaid += 1
            return
        }
        self.warnings.append("\(self.path):\(position.line):\(position.column): \(text)")
    }

    mutating func finish() -> [String] {
        for (name, position) in self.interpolation.missing {
            self.warn(position, "the variable \(name.quoted) isn't set: it is empty here")
        }
        return self.unsaid == 0 ? self.warnings : self.warnings + ["\(self.path): and \(self.unsaid) more warnings"]
    }

    /// - Parameter what: "'working_dir'", for messages.
    mutating func text(_ value: YAMLValue, _ what: String) throws(Fault) -> String {
        guard case .scalar(let text, _) = value.kind, !value.isNull else {
            throw Fault(value.position, "\(what) takes a text, and this is \(value.whatItIs). Mend the file.")
        }
        let expanded = try self.interpolation.expand(text, at: value.position)
        // Nothing that the system takes can hold one: its strings end there.
        guard !expanded.utf8.contains(0) else {
            throw Fault(value.position, "\(what) holds a zero character. Leave it out.")
        }
        return expanded
    }

    func entries(_ value: YAMLValue, _ what: String) throws(Fault) -> [YAMLValue.Entry] {
        guard case .mapping(let entries) = value.kind else {
            throw Fault(value.position, "\(what) takes a mapping, and this is \(value.whatItIs). Mend the file.")
        }
        return entries
    }

    func elements(_ value: YAMLValue, _ what: String) throws(Fault) -> [YAMLValue] {
        guard case .sequence(let elements) = value.kind else {
            throw Fault(value.position, "\(what) takes a list, and this is \(value.whatItIs). Mend the file.")
        }
        return elements
    }

    mutating func warnOfUnknown(_ entry: YAMLValue.Entry, of place: String, known: [String]) {
        let suggestion = Suggestion.sentence(for: entry.key, among: known)
        self.warn(entry.position, "\(entry.key.quoted) is ignored: it isn't a key of \(place).\(suggestion)")
    }

    /// `x-kl` is for what compose lacks; outside of a service this version needs nothing of it.
    mutating func checkExtension(_ entry: YAMLValue.Entry) throws(Fault) {
        guard entry.key == "x-kl", !entry.value.isNull else { return }
        for key in try self.entries(entry.value, "'x-kl'") {
            self.warn(key.position, "\("x-kl.\(key.key)".quoted) is ignored: 'x-kl' has no such key here")
        }
    }

    /// A path of the file's, from the file's folder.
    func absolute(_ path: String) -> String {
        if path.hasPrefix("/") { return path }
        return self.folder == "/" ? "/\(path)" : "\(self.folder)/\(path)"
    }
}
