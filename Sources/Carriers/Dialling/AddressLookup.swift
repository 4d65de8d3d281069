import Libc
import NIOCore

/// All addresses of a name, in the order of RFC 6724. The first one may be unreachable from this network.
enum AddressLookup {
    /// Blocks while the resolver works. An IP address needs no lookup.
    static func addresses(of host: String, port: Int) throws -> [SocketAddress] {
        if let address = try? SocketAddress(ipAddress: host, port: port) { return [address] }
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        // Asks for one entry for each address, rather than one for each kind of socket.
        hints.ai_socktype = SocketType.datagram
        var first: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, String(port), &hints, &first) == 0 else { return try Self.firstOnly(host, port) }
        defer { freeaddrinfo(first) }
        var found: [SocketAddress] = []
        var entry = first
        while let info = entry?.pointee, found.count < Self.atMost {
            entry = info.ai_next
            guard let address = Self.address(info), !found.contains(address) else { continue }
            found.append(address)
        }
        return found.isEmpty ? try Self.firstOnly(host, port) : found
    }

    /// The same lookup by SwiftNIO, whose errors say why it failed.
    private static func firstOnly(_ host: String, _ port: Int) throws -> [SocketAddress] {
        [try SocketAddress.makeAddressResolvingHost(host, port: port)]
    }

    /// Trying more addresses would take longer than users wait. †
    private static let atMost = 8

    private static func address(_ info: addrinfo) -> SocketAddress? {
        guard let raw = UnsafeRawPointer(info.ai_addr) else { return nil }
        switch info.ai_family {
        case AF_INET where info.ai_addrlen >= MemoryLayout<sockaddr_in>.size:
            return SocketAddress(raw.loadUnaligned(as: sockaddr_in.self))
        case AF_INET6 where info.ai_addrlen >= MemoryLayout<sockaddr_in6>.size:
            return SocketAddress(raw.loadUnaligned(as: sockaddr_in6.self))
        default: return nil
        }
    }
}
