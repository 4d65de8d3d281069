import Environments
import InterceptModel
import Libc
import TestSupport
import Testing

@testable import ComposeFiles

/// The file that is laid over a compose file, `!reset` and `!override`, and what an environment is called.
struct ComposeOverrideTests {
    private func read(
        _ files: [String: String],
        environment: [String: String] = [:],
        path: String = "compose.yaml"
    ) throws -> (file: ComposeFile, room: Room) {
        let room = try Room()
        for (name, text) in files { try room.file("demo/\(name)", text) }
        return (try ComposeFile.read(path: room("demo/\(path)"), environment: environment), room)
    }

    private func message(_ files: [String: String]) throws -> String? {
        let room = try Room()
        for (name, text) in files { try room.file("demo/\(name)", text) }
        do throws(Problem) {
            _ = try ComposeFile.read(path: room("demo/compose.yaml"), environment: [:])
            return nil
        } catch { return error.description.replacing(room("demo/"), with: "") }
    }

    @Test func everyKindOfMerging() throws {
        let (file, room) = try self.read([
            "compose.yaml": """
            services:
              a:
                command: [x]
                entrypoint: [y]
                restart: no
                working_dir: /a
                env_file: [a.env, b.env]
                ports: ["8080:81", "8082:83"]
                depends_on: [b, c]
                environment: {A: 1, B: 2, D: 4}
                x-kl: {divert: listen}
              b: {command: b, environment: [L=1, M=2]}
            """,
            "compose.override.yaml": """
            services:
              a:
                command: z 1
                restart:
                env_file: a.env
                ports: [{target: 81, published: 8080, name: http}, "8085:85"]
                depends_on: {c: {condition: service_healthy}, b: !reset null}
                environment: {A: !reset null, B: , C: 3, D: !override 9}
              b: {environment: {L: "2", M: 3}, stop_grace_period: 1m30s}
              c: {command: c}
            """,
            "a.env": "F=a\nG=a\n", "b.env": "F=b\n",
        ])
        #expect(file.overrides == [room("demo/compose.override.yaml")])
        #expect(file.services.map(\.name) == ["a", "b", "c"])
        let a = try #require(file.services.first)
        #expect(a.command == ["y", "z", "1"] && a.restart == .no && a.workingDirectory == "/a" && a.dependsOn == ["c"])
        #expect(
            a.ports == [
                ComposePort(published: 8080, target: 81, name: "http"), ComposePort(published: 8082, target: 83),
                ComposePort(published: 8085, target: 85),
            ]
        )
        #expect(a.environment == ["F": "b", "G": "a", "C": "3", "D": "9"])
        #expect(file.services[1].environment == ["L": "2", "M": "3"] && file.services[1].stopGraceSeconds == 90)
    }

    @Test func resetAndOverride() throws {
        let (file, _) = try self.read([
            "compose.yaml": """
            services:
              a: {command: x, ports: ["8080:81"], environment: {A: 1}, depends_on: [b], x-kl: {netns: /n}}
              b: {command: b}
              c: {command: [c, !reset d, e], ports: !reset ["8082:83"]}
            """,
            "docker-compose.override.yml": """
            services:
              a: {ports: !override ["8081:82"], environment: !reset {}, depends_on: !override [c], x-kl: !reset {}}
              b: !reset
              c: {stop_grace_period: !reset 1s}
              d: !override {command: d}
            """,
        ])
        #expect(file.services.map(\.name) == ["a", "c", "d"])
        let a = try #require(file.services.first)
        #expect(a.ports == [ComposePort(published: 8081, target: 82)] && a.environment == [:] && a.dependsOn == ["c"])
        #expect(a.diversion == .listen)
        #expect(file.services[1].command == ["c", "e"] && file.services[1].ports == [])
        // Alone, too: the tag isn't a value.
        #expect(try parse("services: {a: {command: x, ports: !reset [\"1:2\"]}}").services.first?.ports == [])
        #expect(failure("services: !reset {a: {command: x}}")?.contains("there is no 'services'") == true)
    }

    @Test(arguments: [
        (["compose.yaml", "compose.yml", "docker-compose.yml"], "compose.yaml"),
        (["docker-compose.yaml", "docker-compose.yml"], "docker-compose.yml"),
    ])
    func whichFile(names: [String], first: String) throws {
        let room = try Room()
        for name in names { try room.file("demo/\(name)", "services: {a: {command: x}}") }
        let found = ComposeFile.files(from: room("demo")).first
        #expect(found == room("demo/\(first)"))
        let warnings = try ComposeFile.read(path: try #require(found), environment: [:]).warnings
        #expect(warnings.count == names.count - 1 && warnings.allSatisfy { $0.hasSuffix("/\(first) comes before it") })
    }

    @Test func whichOverride() throws {
        let base = "services: {a: {command: base}}"
        func over(_ word: String) -> String { "services: {a: {command: \(word)}}" }
        let (file, _) = try self.read([
            "compose.yaml": base, "compose.override.yml": over("yml"), "compose.override.yaml": over("yaml"),
        ])
        #expect(file.services.first?.command == ["yml"] && file.warnings.count == 1)
        // Of another file that is named by its path it isn't meant, as with compose's --file.
        let (other, _) = try self.read(
            ["compose.yaml": base, "docker-compose.yml": over("other"), "compose.override.yml": over("yml")],
            path: "docker-compose.yml"
        )
        #expect(other.services.first?.command == ["other"] && other.overrides == [])
    }

    @Test func placesNameTheFile() throws {
        let base = "services: {a: {command: x, ports: [\"80:81\"]}}"
        func said(_ over: String) throws -> String? {
            try self.message(["compose.yaml": base, "compose.override.yaml": over])
        }
        #expect(
            try said("services:\n  a:\n    ports: [x]")
                == "compose.override.yaml:3:13: the target port 'x' isn't a number. Write one from 1 to 65535."
        )
        #expect(
            try said("services:\n b: {command: y, ports: [\"80:83\"]}")
                == "compose.override.yaml:2:26: port 80 is published by 'a' (line 1) and by 'b' (line 2 of compose.override.yaml). Publish one of them on another port."
        )
        #expect(try said("a: [")?.hasPrefix("compose.override.yaml:2:1: this isn't YAML") == true)
        #expect(try said("# nothing\n") == nil)
        let (file, room) = try self.read([
            "compose.yaml": base, "compose.override.yaml": "services:\n  a: {environment: {A: $GONE}, imag: x}",
        ])
        #expect(
            file.warnings.map { $0.replacing(room("demo/"), with: "") } == [
                "compose.override.yaml:2:32: 'imag' is ignored: it isn't a key of a service.",
                "compose.override.yaml:2:24: the variable 'GONE' isn't set: it is empty here",
            ]
        )
    }

    @Test func namesOfProjects() throws {
        let base = "name: ${N:-one}\nservices: {a: {command: [$COMPOSE_PROJECT_NAME], env_file: e}}"
        var files = ["compose.yaml": base, "e": "P=$COMPOSE_PROJECT_NAME"]
        func name(_ environment: [String: String] = [:]) throws -> [String?] {
            let (file, _) = try self.read(files, environment: environment)
            return [file.name, file.services.first?.command.first, file.services.first?.environment["P"]]
        }
        #expect(try name() == ["one", "one", "one"])
        #expect(try name(["COMPOSE_PROJECT_NAME": "shell"]) == ["shell", "shell", "shell"])
        files[".env"] = "N=two"
        #expect(try name() == ["two", "two", "two"])
        files["compose.override.yml"] = "name: three"
        #expect(try name() == ["three", "three", "three"])
        files[".env"] = "COMPOSE_PROJECT_NAME=four"
        #expect(try name() == ["four", "four", "four"])
        files[".env"] = "COMPOSE_PROJECT_NAME=Four"
        #expect(throws: Problem.self) { try name() }
        files = ["compose.yaml": "services: {a: {command: [$COMPOSE_PROJECT_NAME], env_file: e}}", "e": ""]
        #expect(try name() == ["demo", "demo", nil])
    }

    @Test func variablesOfComposeThatDoNothingHere() throws {
        let (file, _) = try self.read(
            ["compose.yaml": "services: {a: {command: x}}", ".env": "COMPOSE_FILE=a.yml:b.yml"],
            environment: ["COMPOSE_PROFILES": "dev"]
        )
        #expect(
            file.warnings == [
                "the variable COMPOSE_FILE is ignored: it isn't in this version",
                "the variable COMPOSE_PROFILES is ignored: it isn't in this version",
            ]
        )
    }

    /// In a folder like /tmp anybody can put a file beside that of somebody else.
    @Test(.enabled(if: geteuid() == 0), arguments: ["compose.override.yaml", ".env"])
    func anothersFile(name: String) throws {
        let room = try Room()
        let path = try room.file("compose.yaml", "services: {a: {command: x}}")
        let other = try room.file(name, "")
        _ = try ComposeFile.read(path: path, environment: [:])
        #expect(chown(other, 12_345, 12_345) == 0)
        let error = #expect(throws: Problem.self) { try ComposeFile.read(path: path, environment: [:]) }
        #expect(error?.description.contains("\(name) belongs to user 12345, and it says what runs as you.") == true)
        // Whoever has the compose file, too, is trusted with it.
        #expect(chown(path, 12_345, 12_345) == 0)
        _ = try ComposeFile.read(path: path, environment: [:])
    }
}
