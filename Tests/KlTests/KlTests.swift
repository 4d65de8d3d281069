import Environments
import InterceptModel
import InterceptProtocol
import Testing
import WorkspaceAPI

@testable import kl

struct PortFlagTests {
    private static let service = Environments.Service(
        name: "api",
        state: .running,
        ports: [
            .init(published: 8080, target: 21090, name: "http"), .init(published: 9090, target: 21091),
            .init(published: 53, target: 21092, name: "80"),
        ]
    )

    @Test(
        arguments: [
            ("8080:3000", 8080, "127.0.0.1", 3000), ("8080", 8080, "127.0.0.1", 8080),
            ("http", 8080, "127.0.0.1", 8080),
            ("http:3000", 8080, "127.0.0.1", 3000), ("8080:other:3000", 8080, "other", 3000),
            ("8080:[::1]:3000", 8080, "::1", 3000), ("9090:localhost:1/tcp", 9090, "127.0.0.1", 1),
        ] as [(String, UInt16, String, UInt16)]
    )
    func isRead(_ text: String, _ service: UInt16, _ host: String, _ port: UInt16) throws {
        let mapping = try PortFlag(text).mapping(for: Self.service)
        #expect(mapping == PortMapping(ServicePort(service), to: Endpoint(host: host, port: port)))
    }

    @Test(arguments: [
        "", ":", "8080:", ":3000", "0:1", "65536", "8080:0", "8080:99999", "1:2:3:4", "8080::3000", "8080:[::1",
        "8080/udp", "http/udp",
        "53/sctp", "-1", "8080:-1", "８０８０:1", "8080 :1",
    ])
    func isRefused(_ text: String) {
        #expect(throws: (any Error).self) { try PortFlag(text).mapping(for: Self.service) }
    }

    @Test func whatTheServiceLacksIsNamedWithWhatItHas() throws {
        let flag = try PortFlag("grpc:1")
        let failure = #expect(throws: Problem.self) { try flag.mapping(for: Self.service) }
        #expect(failure?.description == "'api' has no port named 'grpc'. It has 8080 (http), 9090, 53 (80).")
        #expect(failure.map { ProblemView($0).exitCode } == 2)
    }

    /// A container's ports are 80 and 53/udp; the engine's machine has them as 8080 and 5353.
    private static var published: Environments.Service {
        var service = Environments.Service(
            name: "web",
            state: .running,
            ports: [.init(published: 80, target: 80), .init(published: 53, target: 53, transport: .udp)]
        )
        service.mayHaveOtherPorts = true
        service.publications = [
            .init(host: 8080, port: .init(80)), .init(host: 5353, port: .init(53, .udp)),
        ]
        return service
    }

    @Test(arguments: [
        ("8080:3000", "port 80 of 'web'", "--port 80:3000"), ("8080", "port 80 of 'web'", "--port 80:3000"),
        ("8080:8080", "port 80 of 'web'", "--port 80:3000"), ("8080:4000", "port 80 of 'web'", "--port 80:4000"),
        ("8080:other:3000/tcp", "port 80 of 'web'", "--port 80:other:3000"),
        ("5353:3000", "port 53/udp of 'web'", "--port 53:3000/udp"),
        ("5353:3000/udp", "port 53/udp of 'web'", "--port 53:3000/udp"),
    ])
    func aPublishedPortIsNotTheContainers(_ text: String, _ what: String, _ mend: String) throws {
        let flag = try PortFlag(text)
        let failure = #expect(throws: Problem.self) { try flag.mapping(for: Self.published) }
        #expect(failure?.description.contains(what) == true && failure?.description.hasSuffix(mend) == true)
        #expect(failure.map { ProblemView($0).exitCode } == 2)
    }

    @Test func whatIsDeclaredIsTakenWhateverIsPublished() throws {
        var service = Self.published
        service.ports.append(.init(published: 8080, target: 8080))
        let mappings = try PortFlags.mappings([PortFlag("8080:1"), PortFlag("80:2")], for: service, listeningOn: [])
        #expect(mappings.map(\.port.number) == [8080, 80])
        #expect(PortFlags.undeclared(mappings, of: service).isEmpty)
    }

    @Test func anyOtherNumberIsTakenWithAWarning() throws {
        let flags = try [PortFlag("80:1"), PortFlag("9999:2"), PortFlag("80:3/udp")]
        let mappings = try PortFlags.mappings(flags, for: Self.published, listeningOn: [])
        let warnings = PortFlags.undeclared(mappings, of: Self.published)
        #expect(warnings.count == 2)
        #expect(warnings.first?.hasPrefix("'web' declares 80, 53/udp, not 9999: ") == true)
        #expect(warnings.last?.contains("not 80/udp: ") == true)
        var bare = Self.published
        bare.ports = []
        #expect(PortFlags.undeclared(mappings, of: bare).first?.hasPrefix("'web' doesn't declare 80: ") == true)
    }

    @Test func twoForOnePortAreRefusedWithBoth() throws {
        let flags = try [PortFlag("8080:1"), PortFlag("http:2")]
        let failure = #expect(throws: Problem.self) {
            try PortFlags.mappings(flags, for: Self.service, listeningOn: [])
        }
        #expect(failure?.description == "'8080:1' and 'http:2' are for the same port of 'api'. Give each port once.")
    }

    @Test(
        arguments: [
            ("127.0.0.1", 8080, "127.0.0.1", 8080, true), ("127.0.0.1", 8080, "::1", 8080, true),
            ("0.0.0.0", 8080, "127.0.0.1", 8080, true), ("192.0.2.1", 8080, "192.0.2.1", 8080, true),
            ("192.0.2.1", 8080, "127.0.0.1", 8080, false), ("127.0.0.1", 8080, "127.0.0.1", 3000, false),
        ] as [(String, UInt16, String, UInt16, Bool)]
    )
    func aTargetThatIsTheServicesOwnPlaceIsACircle(
        _ place: String,
        _ placePort: UInt16,
        _ host: String,
        _ port: UInt16,
        _ isLoop: Bool
    ) {
        let mapping = PortMapping(ServicePort(8080), to: Endpoint(host: host, port: port))
        let loop = PortFlags.loop(mapping, listeningOn: [ListeningPlace(Endpoint(host: place, port: placePort))])
        #expect((loop != nil) == isLoop)
    }
}

struct TextTests {
    @Test(arguments: [
        (0.004, "0.00 s"), (0.04, "0.04 s"), (0.2, "0.2 s"), (1.25, "1.3 s"), (12.0, "12.0 s"),
    ])
    func seconds(_ value: Double, _ text: String) { #expect(Times.seconds(value) == text) }

    @Test(
        arguments: [(0, "0"), (999, "999"), (1_000, "1,000"), (10_211, "10,211"), (1_234_567, "1,234,567")]
            as [(UInt64, String)]
    )
    func grouped(_ value: UInt64, _ text: String) { #expect(Times.grouped(value) == text) }

    @Test(
        arguments: [
            (0, "0 B"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (13_002_342, "12.4 MiB"), (.max, "16777216.0 TiB"),
        ] as [(UInt64, String)]
    )
    func bytes(_ value: UInt64, _ text: String) { #expect(Times.bytes(value) == text) }

    @Test func ageOfNoTime() { #expect(Times.age(of: "now") == "?") }

    @Test func columnsAreAsWideAsTheirWidestCell() {
        var table = Table(["A", "LONGER", "C"])
        table.add(["wide cell", "x", "1"])
        table.note("Reason: none")
        table.add(["é", "", "2"])
        #expect(
            table.text == """
                A           LONGER   C
                wide cell   x        1
                  Reason: none
                é                    2

                """
        )
    }

    @Test func whatOthersWroteCannotMoveTheCursor() {
        let record = InterceptRecord(
            service: "api",
            holder: Member(label: "eve\u{1B}[2J\u{7}@\u{202E}host", publicKey: "key"),
            since: "2026-11-22T21:40:03Z",
            ports: [.init(service: 1, target: "127.0.0.1:2\u{1B}")]
        )
        let reference = EnvironmentReference(kind: .local, name: "demo", location: "/x")
        let view = InterceptView(record, environment: reference, isOwn: false)
        for text in [InterceptList(environment: "demo", holders: [view]).text, view.text] {
            #expect(
                !text.unicodeScalars.contains { $0.value < 32 && $0 != "\n" || $0.value == 0x202E || $0.value == 0x7F }
            )
        }
    }

    @Test func anErrorIsOneLine() {
        let failure = ProblemView(Problem(.failed, "/tmp/a\nb\u{1B}[2J/compose.yaml can't be read: \u{202E}é 支払い."))
        #expect(failure.description == "/tmp/a?b?[2J/compose.yaml can't be read: ?é 支払い.")
    }

    @Test func newsOfAnInterceptInFrontOfAPerson() {
        let reference = EnvironmentReference(kind: .local, name: "demo", location: "/x")
        var old = InterceptStatus(environment: reference, service: "api", phase: .active, since: "2026-11-22T21:40:03Z")
        old.mappings = [PortMapping(ServicePort(8080), to: Endpoint(host: "127.0.0.1", port: 3000))]
        old.missingServers = [ServicePort(8080)]
        var new = old
        new.missingServers = []
        #expect(ForegroundNews.lines(from: nil, to: old) == [])
        #expect(ForegroundNews.lines(from: old, to: new) == ["✓ localhost:3000 listens now: it answers for port 8080"])
        #expect(
            ForegroundNews.lines(from: new, to: old)
                == ["! nothing is listening on localhost:3000: the original service answers"]
        )
        old.onUnavailable = .refuse
        #expect(
            ForegroundNews.lines(from: new, to: old)
                == ["! nothing is listening on localhost:3000: clients are refused"]
        )
        let holder = Member(label: "ada@thinkpad", publicKey: "9f3cYk=")
        #expect(InterceptView(old, holder: holder).text.contains("nothing listens there: clients are refused"))
        var record = InterceptRecord(service: "api", holder: holder, since: old.since, ports: [])
        record.isDiverting = false
        let answered = InterceptView(record, environment: reference, isOwn: true).reason?.description
        #expect(answered?.contains("so the original answers.") == true)
        record.refuses = true
        for isOwn in [true, false] {
            let reason = InterceptView(record, environment: reference, isOwn: isOwn).reason?.description
            #expect(reason?.contains(", so clients are refused, for 10 min at most") == true)
        }
        new.phase = .degraded
        new.reason = "the tunnel is down"
        #expect(ForegroundNews.lines(from: old, to: new).first == "api is Degraded: the tunnel is down")
    }
}

struct PlainNumbersTests {
    @Test(
        arguments: [
            ("9.84e-1", "0.984"), ("-9.84e-1", "-0.984"), ("1.2e+1", "12.0"), ("1e0", "1.0"), ("0e+0", "0.0"),
            ("4.1e+1", "41.0"), ("1.5e-5", "0.000015"), ("1.2345e+2", "123.45"), ("0.5e1", "5.0"),
        ]
    )
    func isWrittenOut(_ scientific: String, _ plain: String) {
        #expect(PlainNumbers.plain(Substring(scientific)) == plain)
        #expect(Double(scientific) == Double(plain))
    }

    @Test(arguments: [
        "", "e", "12", "0.5", "1e", "e5", "1e5e", "1.2.3e1", "ae1", "1ex", "1e999999999999", "1.e-1x", "--1e5",
    ])
    func isLeftAlone(_ text: String) {
        #expect(PlainNumbers.plain(Substring(text)) == nil)
    }

    @Test func onlyWhatIsAValue() {
        let yaml = "a: 9.84e-1\n- 1e-1\nb: '1e-1'\nc: see 1e-1\nd:\n- e: 2.5e-1\n"
        #expect(PlainNumbers.text(of: yaml) == "a: 0.984\n- 0.1\nb: '1e-1'\nc: see 1e-1\nd:\n- e: 0.25\n")
    }
}

struct CompletionTests {
    /// Bash runs what stands in a word that it is offered, and others write the record in which the names are.
    @Test func `only names that no shell expands are offered`() {
        let names = ["web", "api-server_2.x", "", "$(id)", "`id`", "a b", "a;b", "a'b", "~", "web/", "ü"]
        #expect(Completion.plain(names) == ["web", "api-server_2.x"])
    }

    @Test(arguments: ["bash", "zsh"]) func `aliases stand for their commands`(shell: String) {
        let script = CompletionScript(shell == "bash" ? .bash : .zsh).description
        #expect(script.contains("'kl i'|'kl int') name=intercept ;;"))
        #expect(script.contains("'kl intercept s'|'kl intercept begin') name=start ;;"))
        // Before the lines that call it, and not after: those of zsh end the script.
        #expect(shell == "bash" || script.hasSuffix("    compdef _kl kl\nfi"))
    }
}

struct MistypedCommandTests {
    @Test(
        arguments: [
            (["intercpt"], "kl intercept"), (["intercept", "strt", "api"], "kl intercept start"),
            (["i", "strt"], "kl intercept start"), (["env", "conect"], "kl env connect"), (["environmnt"], "kl env"),
            (["doctr"], "kl doctor"),
        ]
    )
    func isFound(_ words: [String], _ meant: String) {
        #expect(MistypedCommand.hint(words) == "Did you mean '\(meant)'?")
    }

    @Test(arguments: [
        [], ["xyzzy"], ["supervize"], ["daemn"], ["intercept", "list", "extra"], ["--verson"], ["env", "-x"],
    ])
    func isNotGuessed(_ words: [String]) {
        #expect(MistypedCommand.hint(words) == nil)
    }
}
