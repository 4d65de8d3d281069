import Testing

@testable import Interactive
@testable import picker_trial

/// The questions of the commands, answered with keys.
@Suite struct InterviewTests {
    /// For each question the keys that answer it.
    struct Script: Respondent {
        var keys: [[Key]]
        var heard: [String] = []

        mutating func pick(_ picker: Picker) throws -> PickerResult { try self.run(picker) }
        mutating func ask(_ prompt: LinePrompt) throws -> PromptResult { try self.run(prompt) }
        mutating func hear(_ line: String) { self.heard.append(line) }

        struct NoAnswer: Error {}

        private mutating func run<D: Dialogue>(_ dialogue: D) throws -> DialogueResult<D.Choice> {
            guard !self.keys.isEmpty else { throw NoAnswer() }
            var dialogue = dialogue
            switch dialogue.press(self.keys.removeFirst()) {
            case .continue: throw NoAnswer()
            case .chosen(let choice): return .chosen(choice)
            case .cancelled: return .cancelled
            case .interrupted: return .interrupted
            }
        }
    }

    static let ports = [PortOffer(8_080, name: "http"), PortOffer(9_090), PortOffer(53, isUDP: true)]

    @Test func linesOfTheLists() {
        #expect(
            Names.services(3).map(\.line) == [
                "api-server (running) - ports: 8080", "billing (running) - ports: 8081, 9081",
                "支払い-サービス (running) - ports: 8082, 9082, 10082",
            ]
        )
        #expect(ServiceOffer(name: "x", state: "starting", ports: []).line == "x (starting) - no ports")
        #expect(Self.ports.map(\.line) == ["8080 (http)", "9090", "53/udp"])
        #expect(
            EnvironmentOffer(name: "demo", kind: "local", state: "running", place: "compose.yaml").line
                == "demo (local, running) - compose.yaml"
        )
        #expect(
            InterceptOffer(service: "api", phase: "Active", ports: "8080 → 3000").line == "api (Active) - 8080 → 3000"
        )
        #expect(InterceptOffer(service: "api", phase: "Pending").line == "api (Pending)")
    }

    @Test func onePortIsNoQuestion() throws {
        var interview = Interview(Script(keys: [Key.typed("3000") + [.enter]]))
        let result = try interview.ports(of: "x", [PortOffer(8_080)])
        #expect(result == .chosen([PortAnswer(service: PortOffer(8_080), workspace: 3_000)]))
        #expect(
            interview.person.heard == [
                "Service 'x' has 1 port: 8080 (auto-selected)", "Map selected ports to workspace ports:",
            ]
        )
    }

    @Test func severalPorts() throws {
        let keys: [[Key]] = [
            [.tab, .down, .tab, .enter], Key.typed("abc") + [.enter] + Key.typed("3000") + [.enter], [.enter],
        ]
        var interview = Interview(Script(keys: keys))
        #expect(
            try interview.ports(of: "x", Self.ports)
                == .chosen([
                    PortAnswer(service: Self.ports[0], workspace: 3_000),
                    PortAnswer(service: Self.ports[2], workspace: 53),
                ])
        )
        #expect(interview.person.keys.isEmpty)
        #expect(interview.person.heard == ["Map selected ports to workspace ports:"])
    }

    @Test func noPorts() throws {
        var interview = Interview(Script(keys: []))
        #expect(try interview.ports(of: "x", []) == .cancelled)
        #expect(interview.person.heard == ["service 'x' has no ports. Declare them where the service is defined."])
    }

    @Test(
        arguments: [
            ([[.escape]], .cancelled), ([[.control("c")]], .interrupted), ([[.enter], [.escape]], .cancelled),
            ([[.enter], [.control("c")]], .interrupted),
            ([[.tab, .tab, .enter], [.enter], [.control("c")]], .interrupted),
        ] as [([[Key]], DialogueResult<[PortAnswer]>)]
    )
    func leavingAtEachStep(keys: [[Key]], result: DialogueResult<[PortAnswer]>) throws {
        var interview = Interview(Script(keys: keys))
        #expect(try interview.ports(of: "x", Self.ports) == result)
    }

    @Test func theOthers() throws {
        let services = Names.services(200)
        var interview = Interview(Script(keys: [Key.typed("web-3") + [.enter], [.down, .enter], [.escape]]))
        #expect(try interview.service(services) == services.first { $0.name == "web-3" }.map { .chosen($0) })
        let environments = [
            EnvironmentOffer(name: "demo", kind: "local", state: "running"),
            EnvironmentOffer(name: "shop", kind: "local", state: "stopped"),
        ]
        #expect(try interview.environment(environments) == .chosen(environments[1]))
        #expect(try interview.intercept([InterceptOffer(service: "api", phase: "Active")]) == .cancelled)
    }

    @Test func aServiceWithoutPortsCannotBeChosen() throws {
        var picker = Questions.service([ServiceOffer(name: "x", state: "running", ports: [])])
        #expect(picker.press(.enter) == .continue)
    }
}
