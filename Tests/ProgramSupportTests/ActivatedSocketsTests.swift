import Testing

@testable import ProgramSupport

@Suite struct ActivatedSocketsTests {
    @Test func `descriptors from 3 on, with their names`() {
        #expect(parsed(count: "2", pid: "7", names: "8080:tunnel") == ["3=8080", "4=tunnel"])
    }

    @Test(
        arguments: [
            (nil, ["3=", "4="]), ("", ["3=", "4="]), ("a", ["3=a", "4="]), ("a:", ["3=a", "4="]),
            (":b", ["3=", "4=b"]),
            ("a:b:c", ["3=a", "4=b"]),
        ] as [(String?, [String])]
    )
    func `names may lack, and be too many`(names: String?, expected: [String]) {
        #expect(parsed(count: "2", pid: "7", names: names) == expected)
    }

    @Test(
        arguments: [
            ("1", nil), ("1", ""), ("1", "8"), ("1", "x"), ("1", "7 "), (nil, "7"), ("", "7"), ("0", "7"), ("-1", "7"),
            ("x", "7"),
            ("1025", "7"), ("99999999999999999999", "7"), ("1", "99999999999999999999"),
        ] as [(String?, String?)]
    )
    func `what is another process's, or makes no sense, is left alone`(count: String?, pid: String?) {
        #expect(parsed(count: count, pid: pid, names: "8080") == [])
    }

    @Test func `each is taken once, by its name or its port`() {
        var sockets = ActivatedSockets([
            .init(descriptor: 3, name: "tunnel", port: 51_820), .init(descriptor: 4, name: "8080", port: 8_080),
            .init(descriptor: 5, name: "", port: 8_080), .init(descriptor: 6, name: "other", port: nil),
        ])
        #expect(sockets.take(named: "tunnel") == [3])
        #expect(sockets.take(port: 51_820) == [])
        #expect(sockets.take(port: 8_080) == [4, 5])
        #expect(sockets.take(port: 8_080) == [])
        #expect(sockets.sockets == [.init(descriptor: 6, name: "other", port: nil)])
    }

    private func parsed(count: String?, pid: String?, names: String?) -> [String] {
        ActivatedSockets.parse(count: count, pid: pid, names: names, ownPid: 7).map { "\($0)=\($1)" }
    }
}
