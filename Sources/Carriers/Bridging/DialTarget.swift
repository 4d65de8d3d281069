import HostSupport
import Libc
public import NIOCore
import NIOPosix

/// The addresses of a server, which are tried in turn.
public struct DialTarget: Sendable {
    public let addresses: [SocketAddress]

    public init(addresses: [SocketAddress]) { self.addresses = addresses }

    /// Looks a name up, which may block: do it at the start, not for each connection. An IP address needs no lookup.
    public init(host: String, port: Int) throws {
        if let address = try? SocketAddress(ipAddress: host, port: port) {
            self.addresses = [address]
        } else {
            self.addresses = [try SocketAddress.makeAddressResolvingHost(host, port: port)]
        }
    }

    /// This machine: a server told to listen on "localhost" listens on 127.0.0.1, on ::1, or on both.
    public init(loopbackPort port: Int) {
        self.addresses = ["127.0.0.1", "::1"].compactMap { try? SocketAddress(ipAddress: $0, port: port) }
    }

    /// Connects a socket for `BridgedSocket` or `ChannelRelay`, which the caller adds at once.
    ///
    /// - Parameter prepare: called with each socket's descriptor before it connects, to set the caller's options.
    public func connect(
        on eventLoop: any EventLoop,
        timeout: TimeAmount,
        prepare: (@Sendable (CInt) -> Void)? = nil
    ) -> EventLoopFuture<any Channel> {
        self.connect(on: eventLoop, timeout: timeout, prepare: prepare, from: 0)
    }

    private func connect(
        on eventLoop: any EventLoop,
        timeout: TimeAmount,
        prepare: (@Sendable (CInt) -> Void)?,
        from index: Int
    ) -> EventLoopFuture<any Channel> {
        guard index < self.addresses.count else {
            return eventLoop.makeFailedFuture(IOError(errnoCode: ECONNREFUSED, reason: "connect"))
        }
        let attempt = ClientBootstrap(group: eventLoop)
            .connectTimeout(timeout)
            .channelInitializer { channel in
                SocketOptions.prepare(channel)
                if let prepare, let descriptor = channel.descriptor { prepare(descriptor) }
                return channel.eventLoop.makeCompletedFuture { try SocketOptions.setUp(channel) }
            }
            .connect(to: self.addresses[index])
            .refusingItself()
        guard index + 1 < self.addresses.count else { return attempt }
        return attempt.flatMapError { error in
            guard let error = error as? IOError, error.errnoCode == ECONNREFUSED || error.errnoCode == EADDRNOTAVAIL
            else { return eventLoop.makeFailedFuture(error) }
            return self.connect(on: eventLoop, timeout: timeout, prepare: prepare, from: index + 1)
        }
    }
}
