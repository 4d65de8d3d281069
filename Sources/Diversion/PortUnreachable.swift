import CNetlink
import Libc
public import NIOCore

/// Tells clients of a UDP service that no server takes what they sent, as the kernel does for a closed port: by ICMP "port
/// unreachable" (RFC 792; RFC 4443 §3.1). A client's connected socket then gets ECONNREFUSED.
///
/// This needs CAP_NET_RAW in the service's network namespace. Without it nothing is sent, and clients wait as for a lost
/// datagram. Lives on one event loop.
public final class PortUnreachable {
    private enum Socket {
        case unopened
        case open(CInt)
        case forbidden
    }

    private var ipv4 = Socket.unopened
    private var ipv6 = Socket.unopened
    private var tokens = PortUnreachable.burst
    private var filledAt: NIODeadline?
    #if os(Linux)
    /// Cached, as listing the addresses takes a while if there are many interfaces, and many messages may be sent.
    private var own: (addresses: LocalAddresses, until: NIODeadline)?
    #endif

    /// The kernel's own limits for ICMP messages: net.ipv4.icmp_msgs_per_sec and icmp_msgs_burst.
    private static let perSecond: Int64 = 1_000
    private static let burst: Int64 = 50
    private static let ownAreKnownFor = TimeAmount.seconds(1)  // †

    public init() {}

    deinit {
        for case .open(let descriptor) in [self.ipv4, self.ipv6] { close(descriptor) }
    }

    /// - Parameters:
    ///   - client: the datagram's sender.
    ///   - called: where the datagram arrived: one of this machine's addresses, and the port of the socket that received it.
    ///     Behind a redirect, the kernel replaces the port by the one that the client knows.
    ///   - size: the size of the datagram's payload.
    public func tell(_ client: SocketAddress, called: SocketAddress, size: Int) {
        #if os(Linux)
        guard let message = UnreachableMessage(client: client, called: called, size: size),
            let descriptor = self.descriptor(isIPv6: message.isIPv6), self.mayTell(at: .now()),
            // Datagrams to a broadcast or multicast address aren't answered (RFC 1122 §3.2.2).
            self.isOwn(message.called, at: .now()), let destination = Self.destination(of: message, client)
        else { return }
        let bytes = message.bytes
        destination.withSockAddr { address, size in
            _ = bytes.withUnsafeBytes {
                sendto(descriptor, $0.baseAddress, $0.count, CInt(MSG_DONTWAIT), address, socklen_t(size))
            }
        }
        #endif
    }

    #if os(Linux)
    private func isOwn(_ address: [UInt8], at now: NIODeadline) -> Bool {
        if let own = self.own, now < own.until { return own.addresses.contains(address) }
        let addresses = LocalAddresses()
        self.own = (addresses, now + Self.ownAreKnownFor)
        return addresses.contains(address)
    }

    /// For a raw socket the port is 0; a link-local address keeps its scope.
    private static func destination(of message: UnreachableMessage, _ client: SocketAddress) -> SocketAddress? {
        if message.isIPv6, case .v6(let client) = client {
            var address = client.address
            address.sin6_port = 0
            return SocketAddress(address)
        }
        var packed = ByteBuffer()
        packed.writeBytes(message.client)
        return try? SocketAddress(packedIPAddress: packed, port: 0)
    }

    private func mayTell(at now: NIODeadline) -> Bool {
        let interval = 1_000_000_000 / Self.perSecond
        let filledAt = self.filledAt ?? now
        let new = max(0, (now - filledAt).nanoseconds / interval)
        self.tokens = min(Self.burst, self.tokens + min(new, Self.burst))
        self.filledAt = filledAt + .nanoseconds(new * interval)
        guard self.tokens > 0 else { return false }
        self.tokens -= 1
        return true
    }

    private func descriptor(isIPv6: Bool) -> CInt? {
        let known = isIPv6 ? self.ipv6 : self.ipv4
        switch known {
        case .open(let descriptor): return descriptor
        case .forbidden: return nil
        case .unopened: break
        }
        // IPPROTO_RAW: the socket takes whole packets, and receives none (raw(7)).
        let type = CInt(SOCK_RAW.rawValue) | SocketType.closedByExec
        let descriptor = socket(isIPv6 ? AF_INET6 : AF_INET, type, CInt(IPPROTO_RAW))
        // Other errors may be temporary, such as no free descriptor.
        guard descriptor >= 0 || errno == EPERM || errno == EACCES else { return nil }
        let socket = descriptor >= 0 ? Socket.open(descriptor) : .forbidden
        if isIPv6 { self.ipv6 = socket } else { self.ipv4 = socket }
        return descriptor >= 0 ? descriptor : nil
    }
    #endif
}
