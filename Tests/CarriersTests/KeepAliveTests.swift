import Libc
import NIOCore
import NIOPosix
import Testing

@testable import Carriers

/// When silent connections are asked whether they are still there.
@Suite struct KeepAliveTests {
    @Test func times() {
        let usual = SocketOptions.KeepAlive(forgottenAfter: nil)
        #expect((usual.idle, usual.interval, usual.count) == (45, 15, 7))
        #expect(SocketOptions.KeepAlive(forgottenAfter: 432_000) == usual)
        // A kernel that forgets sooner is kept from it, and the connection lives as long as before.
        let short = SocketOptions.KeepAlive(forgottenAfter: 40)
        #expect(short.idle == 30)
        #expect(short.idle + short.interval * short.count >= 150)
        #expect(SocketOptions.KeepAlive(forgottenAfter: 1).idle == 5)
    }

    private static func isKeptAlive(_ channel: any Channel) -> Bool? {
        guard let socket = channel.descriptor else { return nil }
        var value: CInt = 0
        var size = socklen_t(MemoryLayout<CInt>.size)
        guard getsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &value, &size) == 0 else { return nil }
        return value != 0
    }

    @Test func aRoundReachesWhatIsStillOpen() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let server = try await ServerBootstrap(group: loop).bind(host: "127.0.0.1", port: 0).get()
        let address = try #require(server.localAddress)
        let target = DialTarget(addresses: [address])
        let old = try await target.connect(on: loop, timeout: .seconds(10)).get()
        let gone = try await target.connect(on: loop, timeout: .seconds(10)).get()
        let later = try await target.connect(on: loop, timeout: .seconds(10)).get()
        let seen = try await loop.submit {
            let rounds = KeepAliveRounds(on: loop)
            let before = [old, gone, later].map(Self.isKeptAlive)
            rounds.add(old)
            rounds.add(gone)
            rounds.remove(gone)
            rounds.endRound()
            rounds.add(later)
            return before + [old, gone, later].map(Self.isKeptAlive)
        }.get()
        #expect(seen == [false, false, false, true, false, false])
        for channel in [old, gone, later, server] { try await channel.close() }
    }
}
