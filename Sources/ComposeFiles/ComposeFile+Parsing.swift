import Environments
import HostSupport
import InterceptModel

extension ComposeFile {
    /// Reads the file, the override file beside it, and `.env` there for variables that the caller hasn't set.
    public static func read(
        path: String,
        environment: [String: String] = Spawn.ownEnvironment
    ) throws(Problem) -> ComposeFile {
        guard let text = try Self.readText(path) else {
            throw Problem(.file, "there is no \(path)", "Name a compose file with --file.")
        }
        let companions = ComposeCompanions(of: path)
        var files = [(path: path, text: text)]
        if let override = companions.override {
            try companions.check(override)
            if let text = try Self.readText(override) { files.append((override, text)) }
        }
        var reader = ComposeReader(files.map(\.path), environment: environment)
        for warning in companions.warnings { reader.warn(warning) }
        try reader.readDefaults(companions)
        return try Self.parse(files, reader: &reader)
    }

    /// The environment's name, as far as the file can be read; nil if the file doesn't give one.
    package static func name(path: String, environment: [String: String]) -> String? {
        guard let text = (try? Self.readText(path)) ?? nil else { return nil }
        let companions = ComposeCompanions(of: path)
        var reader = ComposeReader([path], environment: environment)
        try? reader.readDefaults(companions)
        var roots: [YAMLValue] = []
        for (index, text) in [text, companions.overrideText].enumerated() {
            guard let text else { continue }
            if let root = (try? YAMLValue.load(text, file: index)) ?? (try? YAMLValue.load(Self.nameLine(of: text))) {
                roots.append(root)
            }
        }
        do throws(Fault) {
            return try reader.name(roots)
        } catch {
            // The name itself may be what is wrong.
            return reader.writtenName(roots)
        }
    }

    /// The line `name: …` of a file that isn't valid YAML, which may be broken only further down.
    private static func nameLine(of text: String) -> String {
        String(text.split(whereSeparator: \.isNewline).last { $0.hasPrefix("name:") } ?? "")
    }

    /// - Parameters:
    ///   - path: as messages name it; relative to the current folder, or absolute.
    ///   - environment: the caller's variables.
    public static func parse(
        text: String,
        path: String,
        environment: [String: String]
    ) throws(Problem) -> ComposeFile {
        var reader = ComposeReader([path], environment: environment)
        return try Self.parse([(path, text)], reader: &reader)
    }

    /// - Parameter files: the compose file, then the files that are laid over it.
    static func parse(
        _ files: [(path: String, text: String)],
        reader: inout ComposeReader
    ) throws(Problem) -> ComposeFile {
        for (path, text) in files where text.utf8.count > Self.maxBytes {
            throw Problem(.file, "\(path) is larger than 1 MiB", "Name the file that is meant, or split it.")
        }
        let path = Self.absolutePath(of: files.first?.path ?? "")
        do throws(Fault) {
            var roots: [YAMLValue] = []
            for (index, file) in files.enumerated() {
                if let root = try YAMLValue.load(file.text, file: index), !root.isNull {
                    roots.append(root)
                } else if index == 0 {
                    throw Fault(
                        Position(line: 1, column: 1),
                        "the file is empty. Write 'services:' and at least one service."
                    )
                }
            }
            let name = try reader.name(roots) ?? Self.defaultName(in: reader.folder)
            reader.interpolation.environment[ComposeReader.nameVariable] = name
            let services = try reader.document(roots)
            try ComposeChecks(services: services, paths: reader.paths).check()
            return ComposeFile(
                name: name,
                path: path,
                overrides: files.dropFirst().map { Self.absolutePath(of: $0.path) },
                services: services.map(\.service),
                warnings: reader.finish()
            )
        } catch {
            var failure = error.error(in: reader.paths)
            failure.warnings = reader.finish()
            throw failure
        }
    }
}
