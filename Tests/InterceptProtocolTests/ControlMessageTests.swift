import InterceptModel
import InterceptProtocol
import NIOCore
import Testing

@Suite struct ControlMessageTests {
    static let fullStart: ControlMessage = {
        var start = ControlMessage.Start(
            generation: 9_007_199_254_740_991,
            workspace: "ada@thinkpad",
            ports: [.init(1), .init(65_535, .udp)]
        )
        start.onUnavailable = .refuse
        start.drainSeconds = 600
        start.probes = .workspace
        start.proxyProtocol = .v2
        start.takeover = true
        start.absent = [.init(2), .init(3)]
        return .start(start)
    }()

    static let fullMirror: ControlMessage = {
        var mirror = ControlMessage.Mirror(
            generation: 9_007_199_254_740_991,
            workspace: "ada@thinkpad",
            ports: [.init(1), .init(65_535, .udp)]
        )
        mirror.probes = .workspace
        mirror.proxyProtocol = .v2
        return .mirror(mirror)
    }()

    static let behind: ControlMessage = {
        var status = ControlMessage.Status(open: 3, total: 128, passed: 0, bytesIn: 1, bytesOut: 0)
        status.behind = 7
        return .status(status)
    }()

    static let all: [ControlMessage] = [
        .start(.init(generation: 0, workspace: "", ports: [])),
        fullStart,
        .stop,
        .mirror(.init(generation: 0, workspace: "", ports: [])),
        fullMirror,
        .started(generation: 1),
        .failed(.init(generation: nil, code: .internal, reason: "")),
        .failed(.init(generation: 2, code: .port, reason: "port 9999 is not served here")),
        .failed(
            .init(generation: 1, code: .busy, reason: "taken", holder: "grace@desk", since: "2026-03-01T09:30:00Z")
        ),
        .failed(.init(generation: 3, code: .unsupported, reason: "\"quoted\" \\ / ü 🙂")),
        .withdrawn(holder: nil),
        .withdrawn(holder: "grace@desk"),
        .stopped(total: 128, passed: 2),
        .status(.init(open: 3, total: 128, passed: 2, bytesIn: 13_002_342, bytesOut: 102_865_121)),
        behind,
        .failed(.init(generation: 4, code: .denied, reason: "the key may not intercept port 80 here")),
        .probe(.init(id: 0, ports: [])),
        .probe(.init(id: 7, ports: [.init(8_080), .init(53, .udp)])),
        .probed(.init(id: 7, answers: [:])),
        .probed(
            .init(id: 7, answers: [.init(8_080): .connected, .init(53, .udp): .other])
        ),
        .failed(.init(generation: nil, code: .port, reason: "port 9999 is not served here", id: 7)),
        .unknown(type: "later", generation: nil),
        .unknown(type: "later", generation: 7),
    ]

    @Test(arguments: all) func `what is written is read`(message: ControlMessage) throws {
        var decoder = ControlMessageDecoder()
        decoder.append(.control(message))
        #expect(try decoder.next() == .message(message))
        #expect(try decoder.next() == .needsMore)
    }

    /// As the specification has it, to the byte.
    @Test func `how it is written`() {
        func json(_ message: ControlMessage) -> String {
            var bytes = ByteBuffer.control(message)
            let length: UInt32 = bytes.readInteger() ?? 0
            #expect(Int(length) == bytes.readableBytes)
            return String(buffer: bytes)
        }
        #expect(json(.stop) == #"{"type":"stop"}"#)
        #expect(json(.started(generation: 1)) == #"{"generation":1,"type":"started"}"#)
        #expect(
            json(.probe(.init(id: 7, ports: [.init(8_080)])))
                == #"{"id":7,"ports":[{"service":8080,"transport":"tcp"}],"type":"probe"}"#
        )
        #expect(
            json(.probed(.init(id: 7, answers: [.init(9_090): .refused, .init(8_080): .connected])))
                == #"{"answers":[{"answer":0,"service":8080,"transport":"tcp"},"#
                + #"{"answer":1,"service":9090,"transport":"tcp"}],"id":7,"type":"probed"}"#
        )
        #expect(
            json(.mirror(.init(generation: 1, workspace: "ada@thinkpad", ports: [.init(8_080)])))
                == #"{"generation":1,"ports":[{"service":8080,"transport":"tcp"}],"probes":"original","#
                + #""type":"mirror","workspace":"ada@thinkpad"}"#
        )
        #expect(json(.withdrawn(holder: "a/b")) == #"{"holder":"a/b","type":"withdrawn"}"#)
        #expect(
            json(.start(.init(generation: 1, workspace: "ada@thinkpad", ports: [.init(8_080)])))
                == #"{"drainSeconds":10,"generation":1,"onUnavailable":"original","#
                + #""ports":[{"service":8080,"transport":"tcp"}],"probes":"original","type":"start","#
                + #""workspace":"ada@thinkpad"}"#
        )
    }

    @Test func `defaults, and keys that nobody knows`() throws {
        let least = ControlMessage.start(.init(generation: 1, workspace: "", ports: [.init(8_080)]))
        #expect(try decode(#"{"type":"start","generation":1,"ports":[{"service":8080}]}"#) == .message(least))
        #expect(
            try decode(
                #" { "later" : {"a":[null]}, "ports":[{"service":8080,"x":1}], "generation":1 ,"type" : "start" } "#
            ) == .message(least)
        )
        #expect(
            try decode(#"{"type":"probe","id":7,"ports":[{"service":1}]}"#)
                == .message(.probe(.init(id: 7, ports: [.init(1)])))
        )
        #expect(
            try decode(#"{"type":"mirror","generation":1,"ports":[{"service":1}],"takeover":true,"drainSeconds":7}"#)
                == .message(.mirror(.init(generation: 1, workspace: "", ports: [.init(1)])))
        )
        // Answers that mean nothing here are as good as none.
        #expect(
            try decode(
                #"{"type":"probed","id":7,"answers":[{"service":1,"answer":5},{"service":2,"answer":300},"#
                    + #"{"service":0,"answer":0},{"service":65536,"answer":0},{"service":3,"answer":4},"#
                    + #"{"service":4,"transport":"sctp","answer":0}]}"#
            ) == .message(.probed(.init(id: 7, answers: [.init(3): .other])))
        )
        #expect(try decode(#"{"type":"stopped"}"#) == .message(.stopped(total: 0, passed: 0)))
        #expect(
            try decode(#"{"type":"failed","code":"new","reason":"r"}"#)
                == .message(.failed(.init(generation: nil, code: .internal, reason: "r")))
        )
    }

    @Test func `only a type's own keys are looked at`() throws {
        #expect(try decode(#"{"type":"stop","ports":7,"generation":"x"}"#) == .message(.stop))
        #expect(
            try decode(#"{"type":"later","ports":"all","generation":4}"#)
                == .message(.unknown(type: "later", generation: 4))
        )
        #expect(
            try decode(#"{"type":"later","generation":"four"}"#) == .message(.unknown(type: "later", generation: nil))
        )
    }

    @Test func `numbers in any of JSON's forms`() throws {
        #expect(try decode(#"{"type":"started","generation":1.0}"#) == .message(.started(generation: 1)))
        #expect(try decode(#"{"type":"started","generation":1e3}"#) == .message(.started(generation: 1_000)))
        #expect(try decode(#"{"type":"started","generation":-0}"#) == .message(.started(generation: 0)))
    }

    /// The connection ends with CONTROL_ERROR.
    @Test(arguments: [
        "", " ", "x", "null", "true", "7", #""stop""#, "[]", #"[{"type":"stop"}]"#, "{", "{}", #"{"type":}"#,
        #"{"type":null}"#, #"{"type":7}"#, #"{"type":["stop"]}"#, #"{"Type":"stop"}"#, #"{"type":"stop"}}"#,
        #"{"type":"stop"} {"type":"stop"}"#, #"{'type':'stop'}"#, #"{"type":"sto\p"}"#,
        #"{"type":"\ud800"}"#, "{\"type\":\"st\nop\"}", "{\"type\":\"stop\",\u{0}\"a\":1}",
        #"{"type":"started"}"#, #"{"type":"started","generation":null}"#, #"{"type":"started","generation":"1"}"#,
        #"{"type":"started","generation":true}"#, #"{"type":"started","generation":1.5}"#,
        #"{"type":"started","generation":-1}"#, #"{"type":"started","generation":9007199254740992}"#,
        #"{"type":"started","generation":18446744073709551616}"#, #"{"type":"started","generation":1e400}"#,
        #"{"type":"started","generation":NaN}"#, #"{"type":"started","generation":Infinity}"#,
        #"{"type":"started","generation":0x10}"#, #"{"type":"started","generation":01}"#,
        #"{"type":"started","generation":+1}"#, #"{"type":"started","generation":1.}"#,
        #"{"type":"start","generation":1}"#, #"{"type":"start","ports":[]}"#,
        #"{"type":"start","generation":1,"ports":{}}"#, #"{"type":"start","generation":1,"ports":[8080]}"#,
        #"{"type":"start","generation":1,"ports":[{}]}"#, #"{"type":"start","generation":1,"ports":[null]}"#,
        #"{"type":"start","generation":1,"ports":[{"service":"8080"}]}"#,
        #"{"type":"start","generation":1,"ports":[{"service":8080,"transport":6}]}"#,
        #"{"type":"start","generation":1,"ports":[],"takeover":1}"#,
        #"{"type":"start","generation":1,"ports":[],"takeover":null}"#,
        #"{"type":"start","generation":1,"ports":[],"drainSeconds":"10"}"#,
        #"{"type":"start","generation":1,"ports":[],"drainSeconds":-1}"#,
        #"{"type":"start","generation":1,"ports":[],"workspace":{}}"#,
        #"{"type":"start","generation":1,"ports":[],"onUnavailable":"no","probes":1}"#,
        #"{"type":"probe","ports":[]}"#, #"{"type":"probe","id":7}"#, #"{"type":"probe","id":"7","ports":[]}"#,
        #"{"type":"probe","id":-1,"ports":[]}"#, #"{"type":"probe","id":7,"ports":[8080]}"#,
        #"{"type":"probe","id":7,"ports":[{}]}"#, #"{"type":"probed","id":7}"#, #"{"type":"probed","answers":[]}"#,
        #"{"type":"probed","id":7,"answers":[{"service":1}]}"#, #"{"type":"probed","id":7,"answers":[{"answer":0}]}"#,
        #"{"type":"probed","id":7,"answers":[{"service":1,"answer":"0"}]}"#, #"{"type":"failed","id":"7"}"#,
        #"{"type":"failed","code":7}"#, #"{"type":"withdrawn","holder":7}"#, #"{"type":"status","open":"3"}"#,
    ])
    func `what is no control message`(json: String) {
        #expect(throws: ControlError.self) { try decode(json) }
    }

    @Test(arguments: [
        (#"{"type":"started"}"#, "a control message that lacks 'generation'"),
        (#"{"type":"started","generation":"x"}"#, "a control message whose 'generation' is of a wrong kind"),
        (
            #"{"type":"start","generation":1,"ports":[{"service":[]}]}"#,
            "a control message whose 'service' is of a wrong kind"
        ),
        (#"{"type":"start","generation":1,"ports":[7]}"#, "a control message whose 'ports' is of a wrong kind"),
        (
            #"{"type":"started","generation":-1}"#,
            "a control message whose 'generation' is no integer from 0 to 2^53 - 1"
        ),
        (#"[1]"#, "a control message whose value is of a wrong kind"),
        (#"{"#, "a control message that can't be read as a JSON object"),
    ])
    func `what an error says`(json: String, text: String) {
        do {
            _ = try decode(json)
            Issue.record("no error")
        } catch {
            #expect(error.description == text)
        }
    }

    /// Answered by `failed`; the connection goes on.
    @Test(arguments: [
        (#""ports":[{"service":0}]"#, "port 0 can't be intercepted: ports are 1 to 65535"),
        (#""ports":[{"service":65536}]"#, "port 65536 can't be intercepted: ports are 1 to 65535"),
        (#""ports":[{"service":1,"transport":"sctp"}]"#, "transport must be 'tcp' or 'udp', not 'sctp'"),
        (#""ports":[],"onUnavailable":"x\u001b[2J""#, "onUnavailable must be 'original' or 'refuse', not 'x[2J'"),
        (#""ports":[],"probes":"""#, "probes must be 'original' or 'workspace', not ''"),
        (#""ports":[],"proxyProtocol":"v3""#, "proxyProtocol must be 'v1' or 'v2', not 'v3'"),
        (#""ports":[],"drainSeconds":601"#, "drainSeconds must be 0 to 600"),
        (#""ports":[],"drainSeconds":9007199254740991"#, "drainSeconds must be 0 to 600"),
    ])
    func `a value that is refused`(keys: String, reason: String) throws {
        #expect(
            try decode(#"{"type":"start","generation":5,\#(keys)}"#)
                == .refused(.init(generation: 5, code: .unsupported, reason: reason))
        )
    }

    @Test(arguments: [
        (#"[{"service":0}]"#, "port 0 can't be intercepted: ports are 1 to 65535"),
        (#"[{"service":1,"transport":"sctp"}]"#, "transport must be 'tcp' or 'udp', not 'sctp'"),
    ])
    func `a probe that is refused`(ports: String, reason: String) throws {
        #expect(
            try decode(#"{"type":"probe","id":5,"ports":\#(ports)}"#)
                == .refused(.init(generation: nil, code: .unsupported, reason: reason, id: 5))
        )
    }

    @Test func `at most so many ports, and they fit`() throws {
        func start(_ count: Int) -> ControlMessage {
            .start(
                .init(
                    generation: 9_007_199_254_740_991,
                    workspace: String(repeating: "\"", count: 300),
                    ports: (0..<count).map { .init(UInt16(65_535 - $0), .udp) }
                )
            )
        }
        var decoder = ControlMessageDecoder()
        decoder.append(.control(start(ServicePort.maxCount)))
        guard case .message(.start(let most)) = try decoder.next() else { throw CancellationError() }
        #expect(most.ports.count == ServicePort.maxCount)
        decoder.append(.control(start(ServicePort.maxCount + 1)))
        guard case .refused(let failure) = try decoder.next() else { throw CancellationError() }
        #expect(failure.reason == "at most 1024 ports can be intercepted")

        let answers = Dictionary(
            uniqueKeysWithValues: most.ports.map { ($0, Answer.other) }
        )
        decoder.append(.control(.probed(.init(id: 9_007_199_254_740_991, answers: answers))))
        #expect(try decoder.next() == .message(.probed(.init(id: 9_007_199_254_740_991, answers: answers))))

        var bytes = ByteBuffer(string: "before")
        #expect(!start(4_000).encode(into: &bytes))
        #expect(String(buffer: bytes) == "before")
    }

    @Test func `the peer's strings are cut, and our own`() throws {
        let long = String(repeating: "é", count: 1_000)
        let cut = String(repeating: "é", count: 128)
        #expect(try decode(#"{"type":"withdrawn","holder":"\#(long)"}"#) == .message(.withdrawn(holder: cut)))
        #expect(try decode(#"{"type":"\#(long)"}"#) == .message(.unknown(type: cut, generation: nil)))
        var decoder = ControlMessageDecoder()
        decoder.append(.control(.withdrawn(holder: long)))
        #expect(try decoder.next() == .message(.withdrawn(holder: cut)))
    }

    @Test func `counts beyond what JSON can say exactly`() throws {
        var decoder = ControlMessageDecoder()
        decoder.append(.control(.stopped(total: .max, passed: 1 << 53)))
        #expect(try decoder.next() == .message(.stopped(total: 1 << 53 - 1, passed: 1 << 53 - 1)))
    }
}
