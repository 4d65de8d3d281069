import ArgumentParser
import FoundationEssentials
import HostSupport
import InterceptModel
import Libc
import Yams

enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case text
    case json
    case yaml
}

/// The flags of every command that prints data.
struct OutputOptions: ParsableArguments {
    @Option(name: .joinedShortAndLong("o"), help: "How to print: text, json or yaml. Their keys are in docs/CLI.md.")
    var output: OutputFormat = .text

    @Flag(name: .shortAndLong, help: "Print nothing but results and errors.")
    var quiet = false

    @Flag(name: .shortAndLong, help: "Say on standard error what is done, and with which files.")
    var verbose = false

    var isText: Bool { self.output == .text }

    /// Prints the result in the requested format.
    func print(_ result: some Encodable, text: @autoclosure () -> String) throws {
        let value = Versioned(value: result)
        switch self.output {
        case .text: Console.write(text(), to: STDOUT_FILENO)
        case .json:
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            let data = try encoder.encode(value)
            Console.write(String(decoding: data, as: UTF8.self) + "\n", to: STDOUT_FILENO)
        case .yaml:
            let encoder = YAMLEncoder()
            // No limit, so that each value is on one line.
            encoder.options.width = -1
            Console.write(PlainNumbers.text(of: try encoder.encode(value)), to: STDOUT_FILENO)
        }
    }

    /// An object, with the version of its schema.
    private struct Versioned<Value: Encodable>: Encodable {
        /// Outputs without this key are of version 1, which had at most one intercept of a service, and no mirrors.
        static var schemaVersion: Int { 2 }

        let value: Value

        private enum CodingKeys: CodingKey {
            case schemaVersion
        }

        func encode(to encoder: any Encoder) throws {
            try self.value.encode(to: encoder)
            var values = encoder.container(keyedBy: CodingKeys.self)
            try values.encode(Self.schemaVersion, forKey: .schemaVersion)
        }
    }

    func note(_ text: @autoclosure () -> String) {
        if self.verbose { Console.write("kl: \(text())\n", to: STDERR_FILENO) }
    }

    /// Prints a warning.
    func warn(_ text: String) {
        if !self.quiet { Console.write("! \(text)\n", to: STDERR_FILENO) }
    }

    /// For programs that read standard output: with json or yaml, an error is also printed there, as an object, in addition
    /// to the sentence on standard error.
    func reporting<Result>(_ body: () async throws -> Result) async throws -> Result {
        do {
            return try await body()
        } catch {
            let view = ProblemView(error)
            if !self.isText { try? self.print(view, text: "") }
            throw view
        }
    }

    /// The same options with nothing printed, for a command that runs a part of another one.
    var quieted: OutputOptions {
        var quiet = self
        quiet.quiet = true
        quiet.output = .text
        return quiet
    }
}
