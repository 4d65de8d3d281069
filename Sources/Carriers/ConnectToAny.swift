public import NIOCore
import NIOPosix

/// Where something may be reached: addresses that are tried in turn.
public struct DialTarget: Sendable {
    public let addresses: [SocketAddress]

    /// Looks a name up, which takes its time: at the start, not for each connection. An IP address is taken as it is.
    public init(host: String, port: Int) throws {
        if let address = try? SocketAddress(ipAddress: host, port: port) {
            self.addresses = [address]
        } else {
            self.addresses = [try SocketAddress.makeAddressResolvingHost(host, port: port)]
        }
    }

    /// This machine: servers that are told "localhost" listen on 127.0.0.1, on ::1, or on both.
    public init(loopbackPort port: Int) {
        self.addresses = ["127.0.0.1", "::1"].compactMap { try? SocketAddress(ipAddress: $0, port: port) }
    }

    /// Connects a socket for `StreamBridge` or `ChannelRelay`, which the caller adds at once.
    public func connect(on eventLoop: any EventLoop, timeout: TimeAmount) -> EventLoopFuture<any Channel> {
        self.connect(on: eventLoop, timeout: timeout, from: 0)
    }

    private func connect(
        on eventLoop: any EventLoop,
        timeout: TimeAmount,
        from index: Int
    ) -> EventLoopFuture<any Channel> {
        guard index < self.addresses.count else {
            return eventLoop.makeFailedFuture(IOError(errnoCode: ECONNREFUSED, reason: "connect"))
        }
        let attempt = ClientBootstrap(group: eventLoop)
            .connectTimeout(timeout)
            .channelOption(.autoRead, value: false)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelOption(.maxMessagesPerRead, value: 1)
            .channelOption(.writeBufferWaterMark, value: .init(low: 64 * 1_024, high: 256 * 1_024))
            .connect(to: self.addresses[index])
        guard index + 1 < self.addresses.count else { return attempt }
        return attempt.flatMapError { error in
            guard let error = error as? IOError, error.errnoCode == ECONNREFUSED || error.errnoCode == EADDRNOTAVAIL
            else { return eventLoop.makeFailedFuture(error) }
            return self.connect(on: eventLoop, timeout: timeout, from: index + 1)
        }
    }
}
