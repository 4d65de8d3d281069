import HostSupport
import Libc
import NIOCore
import NIOPosix
import Testing

/// Forced: a socket is bound to a port, then connected to it.
@Suite struct SelfConnectionTests {
    private static let stream = SocketType.stream
    private static let datagrams = SocketType.datagram

    /// Bound there, without SO_REUSEADDR; nil: that can't be.
    private static func bound(_ host: String, _ port: Int, _ type: CInt) throws -> CInt? {
        let address = try SocketAddress(ipAddress: host, port: port)
        let descriptor = socket(address.protocol == .inet6 ? AF_INET6 : AF_INET, type, 0)
        guard descriptor >= 0 else { return nil }
        if address.withSockAddr({ bind(descriptor, $0, socklen_t($1)) }) == 0 { return descriptor }
        close(descriptor)
        return nil
    }

    private static func port(of descriptor: CInt) -> Int {
        var address = sockaddr_in6()
        var size = socklen_t(MemoryLayout<sockaddr_in6>.size)
        _ = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
        }
        return Int(UInt16(bigEndian: address.sin6_port))
    }

    private static func connected(_ descriptor: CInt, to host: String, _ port: Int) throws -> Bool {
        try SocketAddress(ipAddress: host, port: port).withSockAddr { connect(descriptor, $0, socklen_t($1)) } == 0
    }

    @Test(arguments: ["127.0.0.1", "::1"], [Self.stream, Self.datagrams])
    func aSocketThatReachedItselfIsSeenAndKeepsNoPort(host: String, type: CInt) throws {
        // A proper close of TCP would keep the port for a minute. Another test's socket may get it first, but not each time.
        let isFree = try (0..<5).contains { _ in
            let descriptor = try #require(try Self.bound(host, 0, type))
            let port = Self.port(of: descriptor)
            #expect(!SelfConnection.willReset(descriptor))
            try #require(try Self.connected(descriptor, to: host, port))
            #expect(SelfConnection.isOne(descriptor))
            #expect(SelfConnection.willReset(descriptor))
            close(descriptor)
            guard let server = try Self.bound(host, port, type) else { return false }
            close(server)
            return true
        }
        #expect(isFree)
    }

    @Test func othersAreNone() throws {
        let server = try #require(try Self.bound("127.0.0.1", 0, Self.stream))
        defer { close(server) }
        try #require(listen(server, 4) == 0)
        let port = Self.port(of: server)
        // The same port of another address of the machine's, too.
        for host in ["127.0.0.1", "127.0.0.2"] {
            let client = try #require(try Self.bound(host, host == "127.0.0.2" ? port : 0, Self.stream))
            defer { close(client) }
            try #require(try Self.connected(client, to: "127.0.0.1", port))
            #expect(!SelfConnection.isOne(client))
            #expect(!SelfConnection.willReset(client))
        }
        var pair: [CInt] = [-1, -1]
        try #require(socketpair(AF_UNIX, Self.stream, 0, &pair) == 0)
        defer { for end in pair { close(end) } }
        #expect(!SelfConnection.willReset(pair[0]))
        #expect(!SelfConnection.willReset(-1))
    }

    @Test(arguments: ["127.0.0.1", "::1"])
    func aChannelOfTCPIsRefused(host: String) async throws {
        let descriptor = try #require(try Self.bound(host, 0, Self.stream))
        let port = Self.port(of: descriptor)
        try #require(try Self.connected(descriptor, to: host, port))
        let channel = ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup).withConnectedSocket(descriptor)
        try await Self.expectRefusal(channel)
        let server = try #require(try Self.bound(host, port, Self.stream))
        close(server)
    }

    @Test(arguments: ["127.0.0.1", "::1"])
    func aChannelOfUDPIsRefused(host: String) async throws {
        let descriptor = try #require(try Self.bound(host, 0, Self.datagrams))
        let port = Self.port(of: descriptor)
        let address = try SocketAddress(ipAddress: host, port: port)
        let channel = DatagramBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .withBoundSocket(descriptor)
            .flatMap { channel in channel.connect(to: address).map { channel } }
        try await Self.expectRefusal(channel)
        let server = try #require(try Self.bound(host, port, Self.datagrams))
        close(server)
    }

    private static func expectRefusal(_ channel: EventLoopFuture<any Channel>) async throws {
        let closed = channel.flatMap(\.closeFuture)
        let error = await #expect(throws: IOError.self) { try await channel.refusingItself().get() }
        #expect(error?.errnoCode == ECONNREFUSED)
        try await closed.get()
    }

    @Test func aChannelToAServerStays() async throws {
        let group = MultiThreadedEventLoopGroup.singleton
        let server = try await ServerBootstrap(group: group).bind(host: "127.0.0.1", port: 0).get()
        let address = try #require(server.localAddress)
        let channel = try await ClientBootstrap(group: group).connect(to: address).refusingItself().get()
        #expect(channel.isActive)
        try await channel.close()
        try await server.close()
    }
}
