import NIOCore
import Testing
import Tunnel

@testable import Carriers

struct DialOrderTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)
    private let one = TunnelClient.Address.tcp(host: "127.0.0.1", port: 1)
    private let two = TunnelClient.Address.command(["two"])
    private let three = TunnelClient.Address.command(["three"])

    @Test func whatFailedStandsBehindForAWhile() {
        var order = DialOrder([self.one, self.two, self.three])
        #expect(order.attempt(at: self.start) == [self.one, self.two, self.three])
        order.failed(self.one, at: self.start)
        #expect(order.attempt(at: self.start + .seconds(1)) == [self.two, self.three, self.one])
        order.answered(self.two)
        #expect(order.attempt(at: self.start + .seconds(29)) == [self.two, self.three, self.one])
        #expect(order.attempt(at: self.start + .seconds(30)) == [self.one, self.two, self.three])
    }

    @Test func theOrderIsTheGivenOneWhereAllFailed() {
        var order = DialOrder([self.one, self.two])
        order.failed(self.two, at: self.start)
        order.failed(self.one, at: self.start)
        order.failed(self.three, at: self.start)
        #expect(order.attempt(at: self.start) == [self.one, self.two])
        order.answered(self.one)
        #expect(order.attempt(at: self.start) == [self.one, self.two])
    }

    @Test func anAttemptGoesThroughAllOnce() {
        var attempt = DialAttempt([self.two, self.one])
        #expect(attempt.next() == self.two)
        #expect(!attempt.isLast)
        attempt.failed(.silent, "one")
        #expect(attempt.isSilent)
        #expect(attempt.next() == self.one)
        #expect(attempt.isLast)
        attempt.failed(.unreachable, "two")
        #expect(attempt.next() == nil)
        #expect(!attempt.isSilent)
        #expect(attempt.reason == "one; two")
    }
}

struct DialAddressTests {
    private static let cases: [(TunnelClient.Address, String, String?)] = [
        (.tcp(host: "::1", port: 1), "[::1]:1", nil),
        (.command(["docker", "exec", "-i", "api", "kl-sidecar", "dial"]), "docker exec -i api kl-sidecar dial", nil),
        (.command(["sh", "-c", "a b"]), "sh -c \"a b\"", nil),
        (
            .command(["docker", "exec", "-i", "kl-project-api-server-1", "/kl-sidecar", "dial"]),
            "docker exec -i kl-project-api-server-1 /kl-sidecar dial", "docker exec -i kl-project-api-server-1 …"
        ),
        (.command(["x\u{1b}[2J\ny", ""]), "\"x[2Jy\" \"\"", nil),
    ]

    @Test(arguments: Self.cases)
    func descriptions(address: TunnelClient.Address, whole: String, abbreviated: String?) {
        #expect("\(address)" == whole)
        #expect(address.abbreviated == abbreviated ?? whole)
    }
}
