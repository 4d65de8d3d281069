import Environments
import Foundation
import GoldenFiles
import HostSupport
import InterceptModel
import Libc
import Testing
import WorkspaceAPI

@testable import kl

/// What kl says when something is wrong, and the code with which it exits.
@Suite struct GoldenErrorTests {
    private static func text(_ error: any Error) -> String {
        let view = ProblemView(error)
        return "\(view.exitCode) \(view.error.code)\n\(view.description)"
    }

    private static func thrown(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "nothing is thrown"
        } catch { return Self.text(error) }
    }

    @Test func `errors of each kind`() throws {
        var golden = GoldenFile("errors")
        let environmentCodes: [Problem.Code] = [.failed, .file, .notUp, .noSuchService, .busy]
        for code in environmentCodes {
            golden.add("environment: \(code)", Self.text(Problem(code, "it is so\nand so. Do this.")))
        }
        for code in [Problem.Code.failed, .notUp, .noSuchService, .noSuchIntercept, .busy] {
            golden.add("daemon: \(code)", Self.text(Problem(code, "it is so\u{1B}", "Do this.")))
        }
        golden.add("workspace", Self.text(Problem(.failed, "it is so. Do this.")))
        golden.add("host", Self.text(HostError("'/x' can't be read", code: ENOENT)))
        for pid in [nil, 77] as [Int32?] {
            let silent = SilentDaemon(pid: pid, home: WorkspaceHome(folder: "/home/ada/.kl"))
            golden.add("silent daemon \(pid ?? 0)", Self.text(silent))
        }
        golden.add("not connected", Self.text(Problem.notConnected))
        golden.add("flag", Self.thrown { _ = try PortFlag("1:2:3:4") })
        #expect(try golden.differences() == [])
    }

    @Test func `errors of ports`() throws {
        var golden = GoldenFile("port-errors")
        let declared = Service(
            name: "api",
            state: .running,
            ports: [
                .init(published: 8_080, target: 21_090, name: "http"),
                .init(published: 53, target: 53, transport: .udp),
            ]
        )
        var open = Service(name: "web", state: .running, ports: [.init(published: 80, target: 80)])
        open.mayHaveOtherPorts = true
        open.publications = [
            .init(host: 8_080, port: .init(80)), .init(host: 8_080, port: .init(53, .udp)),
        ]
        let bare = Service(name: "bare", state: .running, ports: [])
        var openBare = bare
        openBare.mayHaveOtherPorts = true
        let texts = [
            "", ":", "8080:", "0:1", "65536", "8080:0", "1:2:3:4", "8080::3000", "8080:[::1", "http/udp", "53/sctp",
            "-1",
            "grpc:1", "9999", "9999/udp", "http", "8080", "8080:8080", "8080:other:1", "80:3000",
        ]
        let places = try [ListeningPlace("127.0.0.1:8080"), ListeningPlace("127.0.0.1:53/udp")]
        for service in [declared, open, bare, openBare] {
            for text in texts {
                let said = Self.thrown {
                    let mappings = try PortFlags.mappings([PortFlag(text)], for: service, listeningOn: places)
                    let warnings = PortFlags.undeclared(mappings, of: service).joined(separator: "\n")
                    throw Problem(.interrupted, "no error, and the warnings: \(warnings)")
                }
                golden.add("\(service.name)\(service.mayHaveOtherPorts == true ? "?" : "") \(text)", said)
            }
            let two = Self.thrown {
                _ = try PortFlags.mappings([PortFlag("80:1"), PortFlag("80:2")], for: service, listeningOn: places)
            }
            golden.add("\(service.name)\(service.mayHaveOtherPorts == true ? "?" : "") twice", two)
        }
        #expect(try golden.differences() == [])
    }

    @Test func `errors of names`() async throws {
        var golden = GoldenFile("name-errors")
        var service = Service(name: "api-server", state: .running, ports: [])
        service.containers = ["shop-api-1"]
        for reference in [GoldenViewTests.local, GoldenViewTests.docker] {
            for name in ["api-servr", "xyzzy", "shop-api-1"] {
                let failure = Problem.noService(named: name, among: [service], in: reference)
                golden.add("service \(name) in \(reference.name)", Self.text(failure))
            }
        }
        let found = Found([
            FoundEnvironment(GoldenViewTests.local, .up), FoundEnvironment(GoldenViewTests.docker, .down),
            FoundEnvironment(.init(kind: .local, name: "shop", location: "/b"), .down),
        ])
        for name in ["shop", "demoo", "xyzzy"] {
            golden.add("environment \(name)", Self.thrown { _ = try found.named(name) })
        }
        #expect(try golden.differences() == [])
    }

    @Test func `what a doctor says`() throws {
        var golden = GoldenFile("doctor")
        let silent = SilentDaemon(pid: 77, home: WorkspaceHome(folder: "/home/ada/.kl"))
        let home = WorkspaceHome(folder: "/home/ada/.kl")
        var facts: [(String, [Check])] = []
        let daemons: [DaemonFacts.Daemon] = [
            .none, .runs(version: "1"), .runs(version: "2"), .silent(silent),
            .failed(Problem(.failed, "a socket can't be made: too many open files", "Look what is there.")),
        ]
        for (number, daemon) in daemons.enumerated() {
            facts.append(("daemon \(number)", DaemonFacts(daemon: daemon, expected: "1").checks))
        }
        let problems: [(String, Problem?)] = [
            ("-", nil),
            (
                "this user has no home folder. Name a folder of your own by the variable KL_HOME.",
                Problem(.failed, "this user has no home folder", "Name a folder of your own by the variable KL_HOME.")
            ),
            (
                "'/a' is open to other users (mode 0777). Close it with 'chmod 700'.",
                Problem(.failed, "'/a' is open to other users (mode 0777)", "Close it with 'chmod 700'.")
            ), ("no period", Problem(.failed, "no period")), ("one sentence.", Problem(.failed, "one sentence")),
        ]
        for (name, problem) in problems {
            facts.append(("home: \(name)", HomeFacts(home: home, problem: problem).checks))
        }
        facts.append(("no home", HomeFacts().checks))
        let keys: [HomeFacts.Key] = [
            .none, .good(publicKey: "9f3cAAAAAAAAAAAAYk="),
            .refused(
                Problem(
                    .failed,
                    "/home/ada/.kl/private.key is open to other users (mode 0644)",
                    "Close it with 'chmod 600'."
                )
            ),
        ]
        for (number, key) in keys.enumerated() {
            facts.append(("key \(number)", HomeFacts(home: home, isNew: true, room: nil, key: key).checks))
        }
        facts.append(("no room", HomeFacts(home: home, room: 7).checks))
        for (name, checks) in facts {
            let view = DoctorView(checks)
            golden.add(name, view.text(.init()))
            golden.add("\(name), json", try GoldenFile.json(view))
        }
        #expect(try golden.differences() == [])
    }
}
