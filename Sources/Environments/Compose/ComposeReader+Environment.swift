import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

extension ComposeReader {
    /// A mapping, or a list of NAME=VALUE. A name without a value has the caller's, if there is one.
    mutating func environment(_ value: YAMLValue) throws(Fault) -> [String: String] {
        var result: [String: String] = [:]
        if case .sequence(let elements) = value.kind {
            for element in elements {
                let text = try self.text(element, "an element of 'environment'")
                let equals = text.firstIndex(of: "=")
                let name = String(text[..<(equals ?? text.endIndex)])
                try Self.checkName(name, at: element.position)
                result[name] =
                    equals.map { String(text[text.index(after: $0)...]) } ?? self.interpolation.environment[name]
            }
            return result
        }
        for entry in try self.entries(value, "'environment'") {
            try Self.checkName(entry.key, at: entry.position)
            if entry.value.isNull {
                result[entry.key] = self.interpolation.environment[entry.key]
            } else {
                result[entry.key] = try self.text(entry.value, "the variable \(entry.key.quoted)")
            }
        }
        return result
    }

    private static func checkName(_ name: String, at position: Position) throws(Fault) {
        guard !name.isEmpty, !name.utf8.contains(UInt8(ascii: "=")), !name.utf8.contains(0) else {
            throw Fault(
                position,
                "\(name.quoted) can't be a variable's name. Write NAME=VALUE in a list, NAME: VALUE in a mapping."
            )
        }
    }

    /// † Nobody has more; each is read.
    private static let maxFiles = 100

    /// A path, or a list of paths or of mappings with `path` and `required`. What comes later wins.
    mutating func environmentFiles(_ value: YAMLValue) throws(Fault) -> [String: String] {
        guard case .sequence(let elements) = value.kind else {
            return try self.environmentFile(value, isRequired: true)
        }
        guard elements.count <= Self.maxFiles else {
            throw Fault(value.position, "'env_file' names more than \(Self.maxFiles) files. Join them.")
        }
        var result: [String: String] = [:]
        for element in elements {
            guard case .mapping(let entries) = element.kind else {
                result.merge(try self.environmentFile(element, isRequired: true)) { $1 }
                continue
            }
            var isRequired = true
            var path: YAMLValue?
            for entry in entries {
                switch entry.key {
                case "path": path = entry.value
                case "required": isRequired = try self.text(entry.value, "'required'") != "false"
                default: self.warnOfUnknown(entry, of: "an 'env_file'", known: ["path", "required"])
                }
            }
            guard let path else { throw Fault(element.position, "this 'env_file' has no 'path'. Write one.") }
            result.merge(try self.environmentFile(path, isRequired: isRequired)) { $1 }
        }
        return result
    }

    private mutating func environmentFile(_ value: YAMLValue, isRequired: Bool) throws(Fault) -> [String: String] {
        let name = try self.text(value, "'env_file'")
        do throws(EnvironmentError) {
            return try self.readEnvironmentFile(self.absolute(name), isRequired: isRequired)
        } catch {
            throw Fault(value.position, "'env_file': \(error.description)")
        }
    }

    /// - Parameter isRequired: whether it is an error that there is none.
    mutating func readEnvironmentFile(_ path: String, isRequired: Bool) throws(EnvironmentError) -> [String: String] {
        guard let text = try ComposeFile.readText(path) else {
            guard isRequired else { return [:] }
            throw EnvironmentError(.file, "there is no \(path). Make the file, or take it out.")
        }
        var result: [String: String] = [:]
        do throws(Fault) {
            for line in try EnvironmentFile.parse(text) {
                let position = Position(line: line.line, column: 1)
                let value = line.isLiteral ? line.value : try self.interpolation.expand(line.value, at: position)
                guard !value.utf8.contains(0) else {
                    throw Fault(position, "a value holds a zero character. Leave it out.")
                }
                result[line.name] = value
            }
        } catch {
            throw error.error(in: path)
        }
        return result
    }
}

extension ComposeFile {
    static let maxBytes = 1_048_576

    static func isFile(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && UInt32(status.st_mode) & UInt32(S_IFMT) == UInt32(S_IFREG)
    }

    /// Nil: there is no such file.
    static func readText(_ path: String) throws(EnvironmentError) -> String? {
        var status = stat()
        if stat(path, &status) == 0, UInt32(status.st_mode) & UInt32(S_IFMT) != UInt32(S_IFREG) {
            // A pipe would be waited for.
            throw EnvironmentError(.file, "\(path) isn't a file. Name the file that is meant.")
        }
        let bytes: [UInt8]?
        do throws(HostError) {
            bytes = try SmallFile.read(path, atMost: Self.maxBytes)
        } catch {
            if error.code == EFBIG {
                throw EnvironmentError(.file, "\(path) is larger than 1 MiB. Name the file that is meant, or split it.")
            }
            throw EnvironmentError(.file, "\(error.description). Name a file that you may read.")
        }
        guard let bytes else { return nil }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw EnvironmentError(.file, "\(path) isn't UTF-8 text. Save it as UTF-8.")
        }
        return text
    }
}
