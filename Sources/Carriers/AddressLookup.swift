import NIOCore

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// All addresses of a name, in the order of RFC 6724: the first may be one that this network doesn't reach.
enum AddressLookup {
    /// Blocks for as long as the resolver takes. An IP address is taken as it is.
    static func addresses(of host: String, port: Int) throws -> [SocketAddress] {
        if let address = try? SocketAddress(ipAddress: host, port: port) { return [address] }
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        // One entry for each address, and not one for each kind of socket.
        #if canImport(Glibc)
        hints.ai_socktype = CInt(SOCK_DGRAM.rawValue)
        #else
        hints.ai_socktype = SOCK_DGRAM
        #endif
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

    /// SwiftNIO's errors say why there is none.
    private static func firstOnly(_ host: String, _ port: Int) throws -> [SocketAddress] {
        [try SocketAddress.makeAddressResolvingHost(host, port: port)]
    }

    /// More than anyone waits for. †
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
