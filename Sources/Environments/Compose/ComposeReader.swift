import HostSupport

/// Reads the values of a compose file and of those that are laid over it, and collects what there is to warn of.
struct ComposeReader {
    /// As messages name them, by their numbers in positions: the compose file, then what else is read.
    private(set) var paths: [String]
    /// The file's, absolute.
    let folder: String
    var interpolation: Interpolation
    private(set) var warnings: [String] = []
    private var said: Set<String> = []
    private var unsaid = 0

    /// † More aren't read.
    private static let maxWarnings = 50

    /// - Parameter paths: of the compose file and of those that are laid over it.
    init(_ paths: [String], environment: [String: String]) {
        self.paths = paths
        self.folder = SmallFile.parent(of: ComposeFile.absolutePath(of: paths.first ?? ""))
        self.interpolation = Interpolation(environment: environment)
    }

    mutating func warn(_ position: Position, _ text: String) {
        self.warn("\(position.text(in: self.paths)): \(text)")
    }

    /// Each once: what an anchor stands for is read wherever it is used.
    mutating func warn(_ text: String) {
        guard self.said.insert(text).inserted else { return }
        guard self.warnings.count < Self.maxWarnings else {
            self.unsaid += 1
            return
        }
        self.warnings.append(text)
    }

    /// - Returns: its number in positions.
    mutating func number(of path: String) -> Int {
        if let known = self.paths.firstIndex(of: path) { return known }
        self.paths.append(path)
        return self.paths.count - 1
    }

    mutating func finish() -> [String] {
        for (name, position) in self.interpolation.missing {
            self.warn(position, "the variable \(name.quoted) isn't set: it is empty here")
        }
        guard self.unsaid > 0, let path = self.paths.first else { return self.warnings }
        return self.warnings + ["\(path): and \(self.unsaid) more warnings"]
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

    /// What YAML of any version takes for one, in quotes or not.
    mutating func boolean(_ value: YAMLValue, _ what: String) throws(Fault) -> Bool {
        let text = try self.text(value, what)
        switch text.lowercased() {
        case "true", "yes", "on", "y": return true
        case "false", "no", "off", "n": return false
        default: throw Fault(value.position, "\(what) takes true or false, and this is \(text.quoted). Mend the file.")
        }
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
