import Environments
import HostSupport

/// Reads the values of a compose file and of the files that are laid over it, and collects warnings.
package struct ComposeReader {
    /// The files' paths, as messages name them; a `Position`'s file number is an index here. First the compose file, then
    /// every other file that is read.
    private(set) var paths: [String]
    /// The compose file's folder, absolute.
    let folder: String
    var interpolation: Interpolation
    private(set) var warnings: [String] = []
    private var said: Set<String> = []
    private var unsaid = 0

    /// † Users don't read more than that.
    private static let maxWarnings = 50

    /// - Parameter paths: the compose file, then the files that are laid over it.
    init(_ paths: [String], environment: [String: String]) {
        self.paths = paths
        self.folder = SmallFile.parent(of: ComposeFile.absolutePath(of: paths.first ?? ""))
        self.interpolation = Interpolation(environment: environment)
    }

    mutating func warn(_ position: Position, _ text: String) {
        self.warn("\(position.text(in: self.paths)): \(text)")
    }

    /// Each text once: a value behind an anchor is read each time it is used.
    mutating func warn(_ text: String) {
        guard self.said.insert(text).inserted else { return }
        guard self.warnings.count < Self.maxWarnings else {
            self.unsaid += 1
            return
        }
        self.warnings.append(text)
    }

    /// - Returns: the file's number in positions.
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

    /// - Parameter what: what the value is for, as messages name it: "'working_dir'".
    mutating func text(_ value: YAMLValue, _ what: String) throws(Fault) -> String {
        guard case .scalar(let text, _) = value.kind, !value.isNull else {
            throw Fault(value.position, "\(what) takes a text, and this is \(value.whatItIs). Correct the file.")
        }
        let expanded = try self.interpolation.expand(text, at: value.position)
        // Arguments, paths and variables are C strings, which end at the first zero byte.
        guard !expanded.utf8.contains(0) else {
            throw Fault(value.position, "\(what) holds a zero character. Leave it out.")
        }
        return expanded
    }

    /// Every spelling of a boolean in any YAML version, quoted or not.
    mutating func boolean(_ value: YAMLValue, _ what: String) throws(Fault) -> Bool {
        let text = try self.text(value, what)
        switch text.lowercased() {
        case "true", "yes", "on", "y": return true
        case "false", "no", "off", "n": return false
        default:
            throw Fault(value.position, "\(what) takes true or false, and this is \(text.quoted). Correct the file.")
        }
    }

    func entries(_ value: YAMLValue, _ what: String) throws(Fault) -> [YAMLValue.Entry] {
        guard case .mapping(let entries) = value.kind else {
            throw Fault(value.position, "\(what) takes a mapping, and this is \(value.whatItIs). Correct the file.")
        }
        return entries
    }

    func elements(_ value: YAMLValue, _ what: String) throws(Fault) -> [YAMLValue] {
        guard case .sequence(let elements) = value.kind else {
            throw Fault(value.position, "\(what) takes a list, and this is \(value.whatItIs). Correct the file.")
        }
        return elements
    }

    mutating func warnOfUnknown(_ entry: YAMLValue.Entry, of place: String, known: [String]) {
        let suggestion = Suggestion.sentence(for: entry.key, among: known)
        self.warn(entry.position, "\(entry.key.quoted) is ignored: it isn't a key of \(place).\(suggestion)")
    }

    /// Outside of a service, `x-kl` has no keys in this version.
    mutating func checkExtension(_ entry: YAMLValue.Entry) throws(Fault) {
        guard entry.key == "x-kl", !entry.value.isNull else { return }
        for key in try self.entries(entry.value, "'x-kl'") {
            self.warn(key.position, "\("x-kl.\(key.key)".quoted) is ignored: 'x-kl' has no such key here")
        }
    }

    /// Resolves a path of the file relative to the file's folder.
    func absolute(_ path: String) -> String {
        if path.hasPrefix("/") { return path }
        return self.folder == "/" ? "/\(path)" : "\(self.folder)/\(path)"
    }
}
