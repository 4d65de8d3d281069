import Libc
import NIOCore

extension RedirectDiversion {
    /// The address that the client of a redirected connection called; nil if the connection wasn't redirected.
    ///
    /// Called on the channel's event loop.
    public static func originalDestination(of channel: any Channel) -> SocketAddress? {
        #if os(Linux)
        guard let options = channel as? any SocketOptionProvider, let local = channel.localAddress else { return nil }
        // The kernel answers by the connection's family, not by the socket's.
        let isIPv4 = local.protocol == .inet || local.ipAddress?.hasPrefix("::ffff:") == true
        let address: SocketAddress?
        if isIPv4 {
            let found: sockaddr_in? = Self.now(
                options.unsafeGetSocketOption(level: .ip, name: Self.originalDestinationOption)
            )
            address = found.map { SocketAddress($0, host: "") }
        } else {
            let found: sockaddr_in6? = Self.now(
                options.unsafeGetSocketOption(level: .ipv6, name: Self.originalDestinationOption)
            )
            address = found.map { SocketAddress($0, host: "").scoped(toInterface: channel.remoteAddress?.scope) }
        }
        // A client that calls the listener itself wasn't redirected, even if the kernel tracks its connection.
        guard let address, address.port != local.port else { return nil }
        return address
        #else
        return nil
        #endif
    }

    /// SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
    private static let originalDestinationOption = NIOBSDSocket.Option(rawValue: 80)

    /// On the event loop, the future is completed at once.
    private static func now<Value: Sendable>(_ future: EventLoopFuture<Value>) -> Value? {
        var value: Value?
        future.assumeIsolated().whenSuccess { value = $0 }
        return value
    }
}
