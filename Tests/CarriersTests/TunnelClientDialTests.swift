import HostSupport
import Libc
import NIOCore
import NIOPosix
import Noise
import Testing
import Tunnel

@testable import Carriers

/// What a workspace dials, in which order, and what it reports: with real sockets and programs, and a real sidecar's end
/// where one is to answer.
@Suite struct TunnelClientDialTests {
    private static let loop = MultiThreadedEventLoopGroup.singleton.next()

    /// A tunnel client with all that it told. Used on the event loop alone, which makes `@unchecked` safe.
    private final class Stage: TunnelClient.Delegate, @unchecked Sendable {
        struct Report: Equatable {
            var text: String
            var retryIn: TimeAmount
        }

        private(set) var reports: [Report] = []
        private(set) var established = 0
        private(set) var lost = 0
        private(set) var client: TunnelClient?

        init(_ addresses: [TunnelClient.Address], _ sidecar: Sidecar? = nil) {
            let key = StaticKeyPair.generate()
            sidecar?.server?.accept(key.publicKey, presharedKey: .none)
            let responder = sidecar?.key.publicKey ?? StaticKeyPair.generate().publicKey
            self.client = TunnelClient(
                .init(staticKey: key, responder: responder),
                addresses: addresses,
                eventLoop: TunnelClientDialTests.loop,
                delegate: self
            )
            self.client?.start()
        }

        func tunnelClient(_ client: TunnelClient, did event: Initiator.Event) {
            if event == .established { self.established += 1 }
        }

        func tunnelClientHasToldAll(_ client: TunnelClient) {}

        func tunnelClient(_ client: TunnelClient, dialFailed failures: [DialFailure], retryIn delay: TimeAmount) {
            self.reports.append(Report(text: failures.text, retryIn: delay))
        }

        func tunnelClientLostItsCarrier(_ client: TunnelClient) { self.lost += 1 }

        /// A client that goes without `stop` would dial on for as long as a connect takes.
        func end() {
            self.client?.stop()
            self.client = nil
        }
    }

    /// The sidecar's end. Used on the event loop alone.
    private final class Sidecar: TunnelServer.Delegate, @unchecked Sendable {
        let key = StaticKeyPair.generate()
        private(set) var server: TunnelServer?

        func listen() -> EventLoopFuture<TunnelClient.Address> {
            let server =
                self.server
                ?? TunnelServer(
                    staticKey: self.key,
                    configuration: TunnelConfiguration(),
                    eventLoop: TunnelClientDialTests.loop,
                    delegate: self
                )
            self.server = server
            return server.listen(host: "127.0.0.1", port: 0).map { .tcp(host: "127.0.0.1", port: $0?.port ?? 0) }
        }

        func tunnelServer(_ server: TunnelServer, did event: TunnelServer.Event) {}

        func tunnelServer(_ server: TunnelServer, dropped: DropReason, from remote: () -> SocketAddress?) {}
    }

    private func on<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
        try await Self.loop.submit(body).get()
    }

    private func start(_ addresses: [TunnelClient.Address], _ sidecar: Sidecar? = nil) async throws -> Stage {
        try await self.on { Stage(addresses, sidecar) }
    }

    /// The first reports, then the end.
    private func reports(_ count: Int, of stage: Stage) async throws -> [Stage.Report] {
        try await self.wait { stage.reports.count >= count }
        return try await self.on {
            stage.end()
            return Array(stage.reports.prefix(count))
        }
    }

    private func wait(until isSo: @escaping @Sendable () -> Bool) async throws {
        for _ in 0..<12_000 where try await !self.on(isSo) { try await Task.sleep(for: .milliseconds(5)) }
        try #require(await self.on(isSo))
    }

    /// Accepts at a port of its own, says the bytes, and closes; or keeps what it has accepted open.
    private func stranger(saying bytes: [UInt8] = [], closes: Bool = true) async throws -> (any Channel, Int) {
        let listener = try await ServerBootstrap(group: Self.loop)
            .childChannelInitializer { channel in
                if !bytes.isEmpty { channel.writeAndFlush(ByteBuffer(bytes: bytes), promise: nil) }
                return closes ? channel.close() : channel.eventLoop.makeSucceededVoidFuture()
            }
            .bind(host: "127.0.0.1", port: 0).get()
        return (listener, try #require(listener.localAddress?.port))
    }

    private static let refused = [1, 2].map { TunnelClient.Address.tcp(host: "127.0.0.1", port: $0) }

    @Test func aRoundThroughAllAddressesIsOneReport() async throws {
        let stage = try await self.start(Self.refused)
        let text =
            "127.0.0.1:1 can't be reached: connection refused; 127.0.0.1:2 can't be reached: connection refused"
        let reports = try await self.reports(3, of: stage)
        #expect(reports == [0, 100, 200].map { .init(text: text, retryIn: .milliseconds($0)) })
    }

    @Test func aSidecarThatClosesWithoutAWordIsReportedTheSecondTime() async throws {
        let (listener, port) = try await self.stranger()
        let stage = try await self.start([.tcp(host: "127.0.0.1", port: port)])
        let reports = try await self.reports(1, of: stage)
        let text = "127.0.0.1:\(port) closed the connection without an answer"
        #expect(reports == [.init(text: text, retryIn: .milliseconds(100))])
        try await listener.close()
    }

    @Test func whatIsNoTunnelIsReportedAtOnce() async throws {
        let (listener, port) = try await self.stranger(saying: [0, 0, 0, 0], closes: false)
        let stage = try await self.start([.tcp(host: "127.0.0.1", port: port)])
        let reports = try await self.reports(1, of: stage)
        let text = "127.0.0.1:\(port) doesn't speak the tunnel's protocol"
        #expect(reports == [.init(text: text, retryIn: .zero)])
        try await listener.close()
    }

    @Test func aCommandsEndIsReportedWithItsLastLine() async throws {
        let stage = try await self.start([.command(["sh", "-c", "echo no such pod >&2; exit 3"])])
        let reports = try await self.reports(1, of: stage)
        let text = "'sh -c \"echo no such pod >&2; exit 3\"' ended with code 3: no such pod"
        #expect(reports == [.init(text: text, retryIn: .zero)])
    }

    @Test func aCommandThatIsNotThereIsReported() async throws {
        let stage = try await self.start([.command(["no-such-program-anywhere"])])
        let reports = try await self.reports(1, of: stage)
        #expect(
            reports == [.init(text: "'no-such-program-anywhere' isn't in any folder of PATH", retryIn: .zero)]
        )
    }

    @Test func aRelayThatLeadsNowhereIsReported() async throws {
        let relay = StreamRelay("pod/web-1", identity: "web-1 kl-sidecar dial") { _, opening in
            opening.value.failed("no right to exec there")
        }
        let stage = try await self.start([.relay(relay)])
        let reports = try await self.reports(1, of: stage)
        let text = "pod/web-1 can't be talked to: no right to exec there"
        #expect(reports == [.init(text: text, retryIn: .zero)])
    }

    /// What a relay leads to, here the stranger's listener, speaks to the tunnel; its end is reported in the relay's words.
    @Test func aRelaysEndIsReportedInItsWords() async throws {
        final class Words: RelayedStream, Sendable {
            func end(after delay: TimeAmount, telling told: @escaping (String) -> Void) {
                told("ended with code 1: no pod")
            }
        }
        let (listener, port) = try await self.stranger(closes: true)
        let relay = StreamRelay("pod/web-1", identity: "web-1 kl-sidecar dial") { eventLoop, opening in
            ClientBootstrap(group: eventLoop)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture { try opening.value.attach(channel, Words()) }
                }
                .connect(host: "127.0.0.1", port: port)
                .whenFailure { Issue.record("the listener can't be reached: \($0)") }
        }
        let stage = try await self.start([.relay(relay)])
        let reports = try await self.reports(1, of: stage)
        #expect(reports == [.init(text: "pod/web-1 ended with code 1: no pod", retryIn: .zero)])
        try await listener.close()
    }

    @Test func whereAnAddressIsSilentTheNextHasItsTurn() async throws {
        let (listener, port) = try await self.stranger(closes: false)
        let begun = NIODeadline.now()
        let stage = try await self.start([.tcp(host: "127.0.0.1", port: port), Self.refused[0]])
        let reports = try await self.reports(1, of: stage)
        let text = "127.0.0.1:\(port) gives no answer; 127.0.0.1:1 can't be reached: connection refused"
        #expect(reports == [.init(text: text, retryIn: .zero)])
        #expect(NIODeadline.now() - begun >= .seconds(2))
        try await listener.close()
    }

    @Test func silenceOverUDPIsReportedOnceAllAddressesWereTried() async throws {
        let sockets = try await [0, 1].asyncMap { _ in
            try await DatagramBootstrap(group: Self.loop).bind(host: "127.0.0.1", port: 0).get()
        }
        let ports = sockets.compactMap(\.localAddress?.port)
        let stage = try await self.start(ports.map { .udp(host: "127.0.0.1", port: $0) })
        let reports = try await self.reports(1, of: stage)
        #expect(reports == [.init(text: "127.0.0.1:\(ports[1]) gives no answer over UDP", retryIn: .seconds(1))])
        for socket in sockets { try await socket.close() }
    }

    @Test func theAddressThatAnswersIsKept() async throws {
        let sidecar = Sidecar()
        let address = try await self.on { sidecar.listen() }.get()
        let stage = try await self.start([Self.refused[0], address], sidecar)
        try await self.wait { stage.established == 1 }
        #expect(try await self.on { stage.client?.address } == address)
        #expect(try await self.on { stage.reports } == [])
        try await self.on { stage.end() }
    }

    @Test func anotherAddressTakesTheTunnelOver() async throws {
        let sidecar = Sidecar()
        let addresses = try await [0, 1].asyncMap { _ in try await self.on { sidecar.listen() }.get() }
        let stage = try await self.start([addresses[0]], sidecar)
        try await self.wait { stage.established == 1 }
        try await self.on { stage.client?.dial(instead: [addresses[1]]) }
        try await self.wait { stage.client?.address == addresses[1] && stage.lost == 1 }
        try await self.wait { stage.client?.withConnection { $0.hasCarrier } ?? false }
        #expect(try await self.on { stage.established } == 1)
        try await self.on { stage.end() }
    }

    /// A carrier to an address that isn't wanted any more is closed as soon as it opens, and the new ones are dialled.
    @Test func addressesThatChangeWhileOneIsDialled() async throws {
        let sidecar = Sidecar()
        let addresses = try await [0, 1].asyncMap { _ in try await self.on { sidecar.listen() }.get() }
        let stage = try await self.on {
            let stage = Stage([addresses[0]], sidecar)
            stage.client?.dial(instead: [addresses[1]])
            return stage
        }
        try await self.wait { stage.established == 1 }
        #expect(try await self.on { stage.client?.address } == addresses[1])
        #expect(try await self.on { stage.reports } == [])
        try await self.on { stage.end() }
    }

    @Test func afterTheEndNothingIsReported() async throws {
        let stage = try await self.on {
            let stage = Stage(Self.refused)
            stage.client?.close(.done)
            return stage
        }
        try await Task.sleep(for: .milliseconds(200))
        #expect(try await self.on { stage.reports } == [])
        try await self.on { stage.end() }
    }

    @Test func aConnectionThatEndedWithAnErrorIsBegunAnewAfterASecond() async throws {
        let sidecar = Sidecar()
        let address = try await self.on { sidecar.listen() }.get()
        let stage = try await self.start([address], sidecar)
        try await self.wait { stage.established == 1 }
        let begun = NIODeadline.now()
        try await self.on { stage.client?.endConnection(.controlError) }
        try await self.wait { stage.established == 2 }
        #expect(NIODeadline.now() - begun >= .seconds(1))
        try await self.on { stage.end() }
    }
}

extension Sequence {
    fileprivate func asyncMap<Result>(_ body: (Element) async throws -> Result) async throws -> [Result] {
        var results: [Result] = []
        for element in self { results.append(try await body(element)) }
        return results
    }
}
