import Environments
import InterceptModel

extension ComposeReader {
    /// The variable files (`env_file`) of a service, in the order in which they are read.
    struct EnvironmentFiles {
        struct File {
            var path: String
            var position: Position
            var isRequired = true
            /// The format `raw`: `NAME=VALUE` lines in which quotes and `$` have no meaning.
            var isRaw = false
        }

        private(set) var files: [File] = []

        /// A file that is named again replaces its earlier entry and keeps that entry's place.
        mutating func add(_ file: File) {
            if let index = self.files.firstIndex(where: { $0.path == file.path }) {
                self.files[index] = file
            } else {
                self.files.append(file)
            }
        }
    }

    /// † More than any project has; each one is read.
    private static let maxFiles = 100

    /// A path, or a list of paths or of mappings with `path`, `required` and `format`.
    mutating func environmentFiles(_ value: YAMLValue, into result: inout EnvironmentFiles) throws(Fault) {
        var elements = [value]
        if case .sequence(let several) = value.kind { elements = several }
        for element in elements {
            guard case .mapping(let entries) = element.kind else {
                result.add(.init(path: try self.text(element, "'env_file'"), position: element.position))
                continue
            }
            var file = EnvironmentFiles.File(path: "", position: element.position)
            for entry in entries where !entry.isReset {
                switch entry.key {
                case "path":
                    file.path = try self.text(entry.value, "'env_file'")
                    file.position = entry.value.position
                case "required": file.isRequired = try self.boolean(entry.value, "'required'")
                case "format":
                    let format = try self.text(entry.value, "'format'")
                    guard format.isEmpty || format == ".env" || format == "raw" else {
                        throw Fault(
                            entry.value.position,
                            "\(format.quoted) isn't a format of an 'env_file'. Write raw, or leave it out."
                        )
                    }
                    file.isRaw = format == "raw"
                default: self.warnOfUnknown(entry, of: "an 'env_file'", known: ["format", "path", "required"])
                }
            }
            guard !file.path.isEmpty else {
                throw Fault(element.position, "this 'env_file' has no 'path'. Write one.")
            }
            result.add(file)
        }
        guard result.files.count <= Self.maxFiles else {
            throw Fault(value.position, "'env_file' names more than \(Self.maxFiles) files. Join them.")
        }
    }

    /// A later file wins. A variable used in a value is looked up in the caller's environment, then in the service's own
    /// `environment`, then in earlier lines.
    mutating func read(_ files: EnvironmentFiles, own: [String: String?]) throws(Fault) -> [String: String?] {
        var result: [String: String] = [:]
        let names = self.interpolation.environment.merging(own.compactMapValues { $0 }) { caller, _ in caller }
        for file in files.files {
            do throws(Problem) {
                let path = self.absolute(file.path)
                try self.readEnvironmentFile(path, file.isRequired, isRaw: file.isRaw, names: names, into: &result)
            } catch {
                throw Fault(file.position, "'env_file': \(error.description)")
            }
        }
        return result
    }

    /// - Parameters:
    ///   - isRequired: whether a missing file is an error.
    ///   - names: variables that take precedence over the file's own when a value refers to them.
    ///   - result: variables of earlier files, which this file's values may refer to. This file's variables are added to it.
    mutating func readEnvironmentFile(
        _ path: String,
        _ isRequired: Bool,
        isRaw: Bool = false,
        names: [String: String],
        into result: inout [String: String]
    ) throws(Problem) {
        guard let text = try ComposeFile.readText(path) else {
            guard isRequired else { return }
            throw Problem(.file, "there is no \(path)", "Make the file, or take it out.")
        }
        let file = self.number(of: path)
        let callers = self.interpolation.environment
        defer { self.interpolation.environment = callers }
        self.interpolation.environment = result.merging(names) { $1 }
        do throws(Fault) {
            for line in isRaw
                ? try RawEnvironmentFile.parse(text, file: file) : try EnvironmentFile.parse(text, file: file)
            {
                let position = Position(line: line.line, column: line.column, file: file)
                guard let text = line.value else {
                    if let value = names[line.name] { result[line.name] = value }
                    continue
                }
                let value = line.isLiteral ? text : try self.interpolation.expand(text, at: position)
                guard !value.utf8.contains(0) else {
                    throw Fault(position, "a value holds a zero character. Leave it out.")
                }
                result[line.name] = value
                if names[line.name] == nil { self.interpolation.environment[line.name] = value }
            }
        } catch {
            throw error.error(in: self.paths)
        }
    }
}
