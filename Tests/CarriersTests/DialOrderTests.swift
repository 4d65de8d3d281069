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
        // The last address may take its time, since no other one waits.
        #expect(attempt.connectTimeout == .seconds(1))
        #expect(attempt.answerTimeout(for: self.two) == .seconds(8))
        #expect(attempt.answerTimeout(for: self.one) == .seconds(2))
        attempt.failed(.closed(self.two))
        #expect(attempt.saysLittle)
        #expect(attempt.next() == self.one)
        #expect(attempt.connectTimeout == .seconds(5))
        #expect(attempt.answerTimeout(for: self.one) == nil)
        attempt.failed(.unreachable(self.one, why: "no answer"))
        #expect(attempt.next() == nil)
        #expect(!attempt.saysLittle)
        #expect(
            attempt.failures.text
                == "'two' closed the connection without an answer; 127.0.0.1:1 can't be reached: no answer"
        )
    }
}

struct DatagramDialOrderTests {
    private let one = TunnelClient.Address.udp(host: "one", port: 1)
    private let two = TunnelClient.Address.udp(host: "two", port: 2)

    @Test func eachRoundTakesANamesNextPlace() {
        var order = DatagramDialOrder([.tcp(host: "one", port: 1), self.one, self.two])
        var tried: [String] = []
        for _ in 0..<6 {
            tried.append("\(order.address.map { "\($0)" } ?? "none") \(order.place(of: ["a", "b"])) \(order.isLast)")
            order.next()
        }
        #expect(
            tried == [
                "one:1 a false", "two:2 a false", "one:1 b false", "two:2 b true", "one:1 a false", "two:2 a false",
            ]
        )
    }

    @Test func theFirstRoundIsQuickWhereThereIsAnother() {
        var order = DatagramDialOrder([self.one, self.two])
        _ = order.place(of: ["a"])
        #expect(order.timeout == .milliseconds(1_500))
        order.next()
        #expect(order.timeout == .milliseconds(1_500))
        order.next()
        #expect(order.timeout == .seconds(5))
        var alone = DatagramDialOrder([self.one])
        _ = alone.place(of: ["a"])
        #expect(alone.timeout == .seconds(5))
        #expect(!alone.hasOthers)
        #expect(alone.isLast)
        #expect(DatagramDialOrder([]).address == nil)
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
