import NIOCore
import Testing
import Tunnel

@testable import Carriers

struct DialOrderTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    @Test func whatFailedStandsBehindForAWhile() {
        var order = DialOrder(count: 3)
        #expect(order.attempt(at: self.start) == [0, 1, 2])
        order.failed(0, at: self.start)
        #expect(order.attempt(at: self.start + .seconds(1)) == [1, 2, 0])
        order.answered(1)
        #expect(order.attempt(at: self.start + .seconds(29)) == [1, 2, 0])
        #expect(order.attempt(at: self.start + .seconds(30)) == [0, 1, 2])
    }

    @Test func theOrderIsTheGivenOneWhereAllFailed() {
        var order = DialOrder(count: 2)
        order.failed(1, at: self.start)
        order.failed(0, at: self.start)
        #expect(order.attempt(at: self.start) == [0, 1])
        order.answered(0)
        #expect(order.attempt(at: self.start) == [0, 1])
    }

    @Test func anAttemptGoesThroughAllOnce() {
        var attempt = DialAttempt([1, 0])
        #expect(attempt.next() == 1)
        #expect(!attempt.isLast)
        attempt.failed(.silent, "one")
        #expect(attempt.isSilent)
        #expect(attempt.next() == 0)
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
