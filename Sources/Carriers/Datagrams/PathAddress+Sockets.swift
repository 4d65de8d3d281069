import CDatagrams
import Libc
import NIOCore
import Tunnel

extension PathAddress {
    /// nil: not an IP address.
    public init?(_ address: SocketAddress) {
        switch address {
        case .v4(let address):
            let number = UInt32(bigEndian: address.address.sin_addr.s_addr)
            self.init(ipv4: number, port: UInt16(bigEndian: address.address.sin_port))
        case .v6(let address):
            let (high, low) = Self.words(address.address.sin6_addr)
            self.init(
                ipv6High: high,
                low: low,
                port: UInt16(bigEndian: address.address.sin6_port),
                scope: address.address.sin6_scope_id
            )
        case .unixDomainSocket: return nil
        }
    }

    private static func words(_ address: in6_addr) -> (UInt64, UInt64) {
        withUnsafeBytes(of: address) { bytes in
            (
                UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
                UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            )
        }
    }

    private var bytes: in6_addr {
        var address = in6_addr()
        withUnsafeMutableBytes(of: &address) { bytes in
            bytes.storeBytes(of: self.high.bigEndian, toByteOffset: 0, as: UInt64.self)
            bytes.storeBytes(of: self.low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
        return address
    }

    /// The address for a socket of this family: on an IPv6 socket, an IPv4 address is mapped. For an IPv4 socket, the result
    /// begins with a `sockaddr_in`.
    func socketAddress(forIPv6Socket isIPv6: Bool) -> sockaddr_in6 {
        var result = sockaddr_in6()
        if !isIPv6, let ipv4 = self.ipv4 {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = self.port.bigEndian
            address.sin_addr.s_addr = ipv4.bigEndian
            withUnsafeMutableBytes(of: &result) { result in
                withUnsafeBytes(of: address) { result.copyMemory(from: $0) }
            }
            return result
        }
        result.sin6_family = sa_family_t(AF_INET6)
        result.sin6_port = self.port.bigEndian
        result.sin6_addr = self.bytes
        result.sin6_scope_id = self.scope
        return result
    }

    /// Makes the datagram leave from this address.
    func setSource(of datagram: inout kl_datagram, onIPv6Socket isIPv6: Bool) {
        if let ipv4 = self.ipv4, !isIPv6 {
            datagram.source_family = UInt16(AF_INET)
            withUnsafeMutableBytes(of: &datagram.source) { $0.storeBytes(of: ipv4.bigEndian, as: UInt32.self) }
            return
        }
        datagram.source_family = UInt16(AF_INET6)
        datagram.source_interface = self.scope
        let address = self.bytes
        withUnsafeMutableBytes(of: &datagram.source) { source in
            withUnsafeBytes(of: address) { source.copyMemory(from: $0) }
        }
    }
}

extension SocketAddress {
    /// Never nil for an address that a socket reported.
    init?(_ address: PathAddress) {
        var bytes = ByteBuffer()
        if let ipv4 = address.ipv4 {
            bytes.writeInteger(ipv4)
        } else {
            bytes.writeMultipleIntegers(address.high, address.low)
        }
        guard let made = try? SocketAddress(packedIPAddress: bytes, port: Int(address.port)) else { return nil }
        self = made
    }
}
