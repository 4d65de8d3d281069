import Environments
import Foundation
import InterceptModel
import TestSupport
import Testing

@testable import ComposeFiles

/// What kl reads beside what Compose reads, of generated files and of whole projects. Where the two differ on purpose is in
/// docs/CLI.md. Only with KL_LONG=1: the values that matter are in the other tests, too, without Compose.
@Suite(.enabled(if: ComposeOracle.isWanted), .serialized)
struct ComposeOracleTests {
    static let oracle = Result { try ComposeOracle() }
    static let seed = ComposeOracle.environment["SEED"].flatMap { UInt64($0) } ?? 16

    /// A shell's, for both.
    static let callers = [
        "PATH": "/usr/bin:/bin", "HOME": "/home/ada", "SHELLS": "from the shell", "A": "the shell's A", "NOTHING": "",
    ]

    private func compare(
        _ files: [String: String],
        _ what: String,
        environment: [String: String] = Self.callers,
        mayTakeMore: Bool = false
    ) throws {
        let room = try Room()
        for (name, text) in files { try room.file("project/\(name)", text) }
        let theirs = try Self.oracle.get().project(in: room("project"), environment: environment)
        let own: Result<ComposeView, Problem>
        do throws(Problem) {
            own = .success(
                ComposeView(try ComposeFile.read(path: room("project/compose.yaml"), environment: environment))
            )
        } catch {
            own = .failure(error)
        }
        switch (own, theirs) {
        case (.failure, .failure): break
        case (.success, .failure) where mayTakeMore: break
        case (.success(let own), .success(let theirs)):
            let differences = own.differences(from: theirs)
            #expect(differences.isEmpty, "\(differences.joined(separator: "\n")) of \(what)")
        case (.success(let own), .failure(let refusal)):
            Issue.record("compose refuses what kl takes as \(own): \(refusal.text.suffix(300)) of \(what)")
        case (.failure(let error), .success): Issue.record("kl refuses what compose takes: \(error) of \(what)")
        }
    }

    // MARK: .env

    static let names = ["A", "B", "C_1", "D.x", "e-f", "G[0]", "Ä", "SHELLS", "NOTHING", "LATER", "1ST"]

    /// Pieces of values that have a meaning, and some that have none.
    static let pieces = [
        "x", "yz", " ", "  ", "\t", "#", " #", "=", ":", ",", "$", "$$", "$A", "${B}", "${C_1:-d}", "${GONE-e}",
        "${A:+f}",
        "${GONE+g}", "$1", "\\", "\\n", "\\\\", "\\$", "\\t", "\\d", "\\\"", "\\'", "\\0101", "\\012", "'", "\"", "é",
        "🙂",
        "/", "@", "{", "}", "{}", "%", "*", "!", "é", "\\x41", "${A", "\\${B}", "-", "[1]", "null", "1.10",
    ]

    static func line(_ random: inout ComposeBoundsTests.Random) -> String {
        func some(_ list: [String]) -> String { list[Int(random.next() % UInt64(list.count))] }
        let name = some(Self.names)
        let before = some(["", "", "", "", "", "export ", "export\t", "  ", "# ", "\t"])
        let between = some(["=", "=", "=", "=", " = ", ": ", ":", "= ", " =", "=\t"])
        let after = some(["", "", "", " ", " # a comment", "\t", " #", "#", "\r"])
        var value = ""
        for _ in 0..<(random.next() % 5) { value += some(Self.pieces) }
        switch random.next() % 12 {
        case 0: return before + name
        case 1...3: return before + name + between + "\"\(value.replacingOccurrences(of: "\"", with: "\\\""))\"" + after
        case 4, 5: return before + name + between + "'\(value.replacingOccurrences(of: "'", with: "\\'"))'" + after
        case 6: return before + name + between + "\"\(value)\n second\(value)\"" + after
        case 7: return before + name + between + "\(some(["'", "\""]))\(value)\(some(["'", "\""]))" + after
        default: return before + name + between + value + after
        }
    }

    /// 300 files of two lines: one may refer to what the other says.
    @Test func defaults() throws {
        var random = ComposeBoundsTests.Random(state: Self.seed)
        let names = Self.names.map { "\"\($0)\"" }.joined(separator: ", ")
        let compose = "services: {a: {image: x, command: [x], environment: [\(names)]}}\n"
        for index in 0..<300 {
            let begin = index % 20 == 0 ? "\u{FEFF}" : ""
            let text = begin + Self.line(&random) + "\n" + Self.line(&random) + "\n"
            try self.compare(["compose.yaml": compose, ".env": text], ".env \(text.debugDescription)")
        }
    }

    @Test func environmentFiles() throws {
        var random = ComposeBoundsTests.Random(state: Self.seed &+ 1)
        let compose = """
            services:
              a: {image: x, command: [x], env_file: [a.env, b.env], environment: {OWN: own, B: "own B"}}
            """
        for _ in 0..<200 {
            let texts = (0..<2).map { _ in Self.line(&random) + "\n" }
            try self.compare(
                [
                    "compose.yaml": compose, "a.env": texts[0], "b.env": "LATER=${C_1}${OWN}\n" + texts[1],
                    ".env": "Z=z\n",
                ],
                "env_file \(texts)"
            )
        }
    }

    // MARK: Interpolation

    static func template(_ random: inout ComposeBoundsTests.Random, depth: Int = 0) -> String {
        func some(_ list: [String]) -> String { list[Int(random.next() % UInt64(list.count))] }
        var result = ""
        for _ in 0...(random.next() % 3) {
            switch random.next() % (depth < 3 ? 10 : 5) {
            case 0: result += some(["x", "y z", "/", ":", "-", "1.10", "'", "é", "{", "}", "{}", "{\"a\": 1}"])
            case 1:
                result += some(["$$", "$", "$ ", "$1", "$-", "$.", "$$$$", "$$$", "${", "${}", "${1}", "${A!}", "${A"])
            case 2, 3: result += some(["$A", "$GONE", "${A}", "${GONE}", "$NOTHING", "${NOTHING}", "$A_", "$A.b"])
            case 4: result += some(["a", "b=c", "?", "+", ":-"])
            default:
                let name = some(["A", "GONE", "NOTHING", "B1"])
                let sign = some(["-", ":-", "+", ":+", "-", ":-", "?", ":?"])
                result += "${\(name)\(sign)\(Self.template(&random, depth: depth + 1))}"
            }
        }
        return result
    }

    @Test func interpolation() throws {
        var random = ComposeBoundsTests.Random(state: Self.seed &+ 2)
        for _ in 0..<300 {
            let text = Self.template(&random)
            let quoted =
                "\"\(text.replacingOccurrences(of: "\\", with: "\\\\").replacingOccurrences(of: "\"", with: "\\\""))\""
            // Of what lies in a default Compose finds faults also where the default isn't wanted, and takes a '?' in it for
            // that of the variable itself.
            let inner = text.split(separator: "${", omittingEmptySubsequences: false).dropFirst().dropLast()
            try self.compare(
                ["compose.yaml": "services: {a: {image: x, command: [x, \(quoted)], environment: {X: \(quoted)}}}\n"],
                "template \(text)",
                mayTakeMore: inner.contains { !$0.contains("}") }
            )
        }
    }

    // MARK: Scalars

    @Test func scalars() throws {
        var random = ComposeBoundsTests.Random(state: Self.seed &+ 3)
        let pieces = [
            "0", "1", "7", "9", "12", "00", ".", "-", "+", "e", "E", "x", "o", "b", "_", "a", "F", ".5", "1e3",
        ]
        for _ in 0..<20 {
            let values = (0..<30).map { _ in
                (0...(random.next() % 4)).map { _ in pieces[Int(random.next() % UInt64(pieces.count))] }.joined()
            }.filter { !["-", "--"].contains($0) }
            let lines = values.enumerated().map { "      V\($0): \($1)\n" }.joined()
            try self.compare(
                ["compose.yaml": "services:\n  a:\n    image: x\n    command: [x]\n    environment:\n" + lines],
                "\(values)"
            )
        }
    }

    // MARK: Whole files

    @Test(arguments: ComposeProjects.all)
    func whole(project: ComposeProjects.Project) throws {
        try self.compare(project.files, project.name)
    }

    /// Projects of others, each in a folder below KL_COMPOSE_PROJECTS. What kl can't run at all (images without a command,
    /// ports that meet) is left out by a file that is laid over them, and told.
    @Test(.enabled(if: ComposeOracle.environment["KL_COMPOSE_PROJECTS"] != nil))
    func projectsOfOthers() throws {
        let folder = try #require(ComposeOracle.environment["KL_COMPOSE_PROJECTS"])
        var same = 0
        for name in Room.names(in: folder) {
            let project = "\(ComposeFile.absolutePath(of: folder + "/."))/\(name)".replacingOccurrences(
                of: "/./",
                with: "/"
            )
            let said = try Self.other(project)
            if said.isEmpty { same += 1 }
            for line in said { print("\(name): \(line)") }
        }
        print("the same in all that both read: \(same)")
    }

    private static func other(_ folder: String) throws -> [String] {
        guard let path = ComposeFile.files(from: folder).first else { return ["no compose file"] }
        let texts = [path] + (ComposeCompanions(of: path).override.map { [$0] } ?? [])
        let first = try Self.oracle.get().project(in: folder, files: texts, environment: Self.callers)
        let services: [String]
        switch first {
        case .failure(let refusal):
            do throws(Problem) {
                _ = try ComposeFile.read(path: path, environment: Self.callers)
                return ["compose refuses: \(refusal.text.suffix(200))"]
            } catch { return ["both refuse: \(refusal.text.suffix(200)) / \(error)"] }
        case .success(let view):
            services = view.services.filter { $1.command.isEmpty }.keys.sorted()
        }
        var notes: [String] = []
        // What is taken away, one key after the other, until kl takes the rest.
        var keys: [String] = []
        for key in ["", "ports", "depends_on", "restart", "entrypoint", "command"] {
            if !key.isEmpty { keys.append(key) }
            let named = try Self.names(path)
            let over =
                "services:\n"
                + named.map { name in
                    var lines = keys.map { "    \($0): !reset null\n" }
                    if services.contains(name) || keys.contains("command") {
                        lines.append("    command: !override [kl]\n")
                    }
                    return "  \(name):\(lines.isEmpty ? " {}" : "")\n"
                        + Set(lines).sorted().filter {
                            !(keys.contains("command") && $0.contains("command: !reset"))
                        }.joined()
                }.joined()
            let room = try Room()
            let extra = try room.file("over.yaml", over)
            let companions = ComposeCompanions(of: path)
            var files: [(path: String, text: String)] = []
            for path in texts + [extra] { files.append((path, try ComposeFile.readText(path) ?? "")) }
            var reader = ComposeReader(files.map(\.path), environment: Self.callers)
            do throws(Problem) {
                try reader.readDefaults(companions)
                let own = ComposeView(try ComposeFile.parse(files, reader: &reader))
                let theirs = try? Self.oracle.get().project(
                    in: folder,
                    files: texts + [extra],
                    environment: Self.callers
                ).get()
                guard let theirs else { return notes + ["compose refuses the rest"] }
                return notes + own.differences(from: theirs)
            } catch {
                notes.append("without \(keys): \(error.description.suffix(250))")
            }
        }
        return notes
    }

    private static func names(_ path: String) throws -> [String] {
        guard let root = try YAMLValue.load(try ComposeFile.readText(path) ?? ""),
            case .mapping(let entries) = root.kind,
            case .mapping(let services) = entries.first(where: { $0.key == "services" })?.value.kind
        else { return [] }
        return services.map(\.key)
    }
}
