import Libc
public import NIOCore

#if os(Linux)
import CNetlink

/// Finds out whether a server listens for TCP at an address of this machine's loopback, from the kernel's list of sockets
/// (sock_diag(7)), which needs no rights. Unlike with a connection, the server doesn't notice.
public struct LocalListeners: ~Copyable {
    private let descriptor: CInt

    private static let listens: UInt32 = 1 << 10  // TCP_LISTEN, tcp_states.h
    /// What the kernel writes at a time (NLMSG_GOODSIZE is at most 8 KiB, and a piece of a dump 32 KiB).
    private static let pieceSize = 32 * 1_024

    public init() { self.descriptor = kl_netlink_open(NETLINK_SOCK_DIAG) }

    deinit { if self.descriptor >= 0 { close(self.descriptor) } }

    /// nil: unknown, since the address isn't the loopback's, or this kernel doesn't support the query.
    public func has(_ address: SocketAddress) -> Bool? {
        guard self.descriptor >= 0, let place = Place(address), place.isLoopback else { return nil }
        // An IPv6 socket may listen for both families.
        for family in place.isIPv4 ? [AF_INET, AF_INET6] : [AF_INET6] {
            guard self.ask(family, place.port), let isThere = self.answer(place) else { return nil }
            if isThere { return true }
        }
        return false
    }

    /// Asks for all listening sockets with this port.
    private func ask(_ family: CInt, _ port: UInt16) -> Bool {
        var header = nlmsghdr()
        header.nlmsg_len = UInt32(MemoryLayout<nlmsghdr>.size + MemoryLayout<inet_diag_req_v2>.size)
        header.nlmsg_type = UInt16(SOCK_DIAG_BY_FAMILY)
        header.nlmsg_flags = UInt16(NLM_F_REQUEST | NLM_F_DUMP)
        var body = inet_diag_req_v2()
        body.sdiag_family = UInt8(family)
        body.sdiag_protocol = UInt8(IPPROTO_TCP)
        body.idiag_states = Self.listens
        body.id.idiag_sport = port.bigEndian
        body.id.idiag_cookie = (.max, .max)
        var bytes: [UInt8] = []
        withUnsafeBytes(of: header) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: body) { bytes.append(contentsOf: $0) }
        return bytes.withUnsafeBytes { send(self.descriptor, $0.baseAddress, $0.count, 0) } == bytes.count
    }

    /// nil: the kernel gave no valid answer.
    private func answer(_ place: Place) -> Bool? {
        var buffer = [UInt8](repeating: 0, count: Self.pieceSize)
        var isThere = false
        while true {
            let count = buffer.withUnsafeMutableBytes { recv(self.descriptor, $0.baseAddress, $0.count, 0) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return nil }
            let end = buffer.withUnsafeBytes { bytes in
                Self.walk(UnsafeRawBufferPointer(rebasing: bytes[..<count])) { socket in
                    if place.isTaken(by: socket) { isThere = true }
                }
            }
            switch end {
            case .more: continue
            case .done: return isThere
            case .failed: return nil
            }
        }
    }

    private enum End {
        case more
        case done
        case failed
    }

    private static func walk(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void) -> End {
        let headerSize = MemoryLayout<nlmsghdr>.size
        var rest = bytes
        while rest.count >= headerSize {
            let header = rest.loadUnaligned(as: nlmsghdr.self)
            let length = Int(header.nlmsg_len)
            guard length >= headerSize, length <= rest.count else { return .failed }
            let content = UnsafeRawBufferPointer(rebasing: rest[headerSize..<length])
            switch CInt(header.nlmsg_type) {
            // A dump that failed ends with a negative error number instead of 0.
            case NLMSG_DONE: return content.count >= 4 && content.loadUnaligned(as: CInt.self) < 0 ? .failed : .done
            case NLMSG_ERROR: return .failed
            case CInt(SOCK_DIAG_BY_FAMILY): body(content)
            default: break
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[min((length + 3) & ~3, rest.count)...])
        }
        return .more
    }
}

/// A TCP address to connect to.
private struct Place {
    /// 4 bytes or 16.
    var address: [UInt8]
    var port: UInt16

    private static let mappedPrefix: [UInt8] = Array(repeating: 0, count: 10) + [0xFF, 0xFF]

    init?(_ address: SocketAddress) {
        switch address {
        case .v4(let address): self.address = withUnsafeBytes(of: address.address.sin_addr) { Array($0) }
        case .v6(let address):
            let bytes = withUnsafeBytes(of: address.address.sin6_addr) { Array($0) }
            self.address = bytes.starts(with: Self.mappedPrefix) ? Array(bytes.suffix(4)) : bytes
        case .unixDomainSocket: return nil
        }
        guard let port = address.port, let number = UInt16(exactly: port) else { return nil }
        self.port = number
    }

    var isIPv4: Bool { self.address.count == 4 }

    var isLoopback: Bool {
        if self.isIPv4 { return self.address.first == 127 }
        return self.address.last == 1 && self.address.dropLast().allSatisfy { $0 == 0 }
    }

    /// Whether this listening socket, given as an `inet_diag_msg` and its attributes, takes connections to this address.
    func isTaken(by bytes: UnsafeRawBufferPointer) -> Bool {
        let size = MemoryLayout<inet_diag_msg>.size
        guard bytes.count >= size else { return false }
        let socket = bytes.loadUnaligned(as: inet_diag_msg.self)
        // A socket bound to a device only gets what comes in there: the loopback always has index 1.
        guard UInt16(bigEndian: socket.id.idiag_sport) == self.port, [0, 1].contains(socket.id.idiag_if) else {
            return false
        }
        let source = withUnsafeBytes(of: socket.id.idiag_src) { Array($0) }
        if CInt(socket.idiag_family) == AF_INET {
            let own = source.prefix(4)
            return self.isIPv4 && (own.elementsEqual(self.address) || own.allSatisfy { $0 == 0 })
        }
        if source.allSatisfy({ $0 == 0 }) {
            let attributes = UnsafeRawBufferPointer(rebasing: bytes[size...])
            return !self.isIPv4 || !Self.isForIPv6Alone(attributes)
        }
        return source == (self.isIPv4 ? Self.mappedPrefix + self.address : self.address)
    }

    private static func isForIPv6Alone(_ attributes: UnsafeRawBufferPointer) -> Bool {
        let headerSize = MemoryLayout<nlattr>.size
        var rest = attributes
        while rest.count >= headerSize {
            let header = rest.loadUnaligned(as: nlattr.self)
            let length = Int(header.nla_len)
            guard length >= headerSize, length <= rest.count else { return false }
            if Int(header.nla_type) == Int(INET_DIAG_SKV6ONLY), length > headerSize {
                return rest[rest.startIndex + headerSize] != 0
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[min((length + 3) & ~3, rest.count)...])
        }
        return false
    }
}
#else
/// Only Linux has this query.
public struct LocalListeners: ~Copyable {
    public init() {}
    public func has(_ address: SocketAddress) -> Bool? { nil }
}
#endif
