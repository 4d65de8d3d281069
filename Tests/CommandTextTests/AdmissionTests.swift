import CommandText
import InterceptModel
import Testing

@Suite struct AdmissionTests {
    private static let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

    @Test func `a line says what a key may do`() throws {
        let line = """
            \(Self.key)\tlabel=ada%20%2523@thinkpad  may=take-over,mirror ports=53/udp,80/tcp,80 \
            until=2026-12-01T00:00:00Z claim=mirror:80,53/udp
            """
        let admission = try Admission(line: line)
        #expect(admission.publicKey == Self.key)
        #expect(admission.label == "ada %23@thinkpad")
        let ports: Set<ServicePort> = [.init(80), .init(53, .udp)]
        let until = UTCTime(rfc3339: "2026-12-01T00:00:00Z")
        #expect(admission.grant == Grant([.mirror, .takeOver], ports: ports, until: until))
        #expect(admission.claim == .init(.mirror, ports))
        #expect(
            admission.description == "\(Self.key) label=ada%20%2523@thinkpad may=mirror,take-over ports=53/udp,80"
                + " until=2026-12-01T00:00:00Z claim=mirror:53/udp,80"
        )
        #expect(try Admission(line: admission.description) == admission)
    }

    @Test func `what is left out isn't limited`() throws {
        #expect(try Admission(line: Self.key).grant == nil)
        #expect(try Admission(line: "\(Self.key) label=x").grant == nil)
        #expect(try Admission(line: "\(Self.key) ports=80").grant == Grant(Set(Right.allCases), ports: [.init(80)]))
        #expect(try Admission(line: "\(Self.key) may=mirror").grant == Grant([.mirror]))
    }

    @Test(arguments: [
        "", " ", "K x", "K =", "K may", "K may=", "K may=all", "K may=mirror,", "K may=mirror may=mirror", "K ports=",
        "K ports=0", "K ports=80/sctp", "K ports=80,,81", "K until=tomorrow", "K until=2026-12-01", "K label=%2",
        "K label=a%41",
        "K claim=80", "K claim=watch:80", "K claim=mirror:", "K rights=mirror", "K MAY=mirror",
    ])
    func `no admission`(line: String) {
        #expect(throws: FlagError.self) { try Admission(line: line) }
    }

    @Test func `a grant ends at its time`() {
        let time = UTCTime(seconds: 1_000)
        let grant = Grant([.mirror], ports: [.init(80)], until: time)
        #expect(!grant.isOver(at: UTCTime(seconds: 999, milliseconds: 999)))
        #expect(grant.isOver(at: time))
        #expect(!Grant.everything.isOver(at: UTCTime(seconds: .max)))
        #expect(grant.allows(.mirror) && !grant.allows(.intercept))
        #expect(grant.allows(.init(80)) && !grant.allows(.init(80, .udp)) && !grant.allows(.init(81)))
        #expect(Grant.everything.allows(.init(81)))
    }
}
