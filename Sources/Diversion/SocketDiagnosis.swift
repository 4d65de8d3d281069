#if os(Linux)
import CNetlink
import InterceptModel
import Libc

/// Lists and ends TCP sockets of this network namespace through sock_diag(7).
struct SocketDiagnosis: ~Copyable {
    struct Socket {
        var local: End
        var remote: End
        /// SO_MARK; nil if the kernel doesn't tell.
        var mark: UInt32?
        /// Whether it is a subflow of Multipath TCP: ending it doesn't end the endpoints' connection.
        var isSubflow = false
        fileprivate var family: UInt8
        fileprivate var id: inet_diag_sockid
    }

    /// IPv4 addresses are in IPv4-mapped form, as dual-stack sockets report them.
    struct End: Hashable {
        var address: [UInt8]
        var port: UInt16

        var isLoopback: Bool {
            guard self.address.count == 16 else { return false }
            if self.address.starts(with: Self.mappedPrefix) { return self.address[12] == 127 }
            return self.address[15] == 1 && self.address[..<15].allSatisfy { $0 == 0 }
        }

        static let mappedPrefix: [UInt8] = Array(repeating: 0, count: 10) + [0xFF, 0xFF]
    }

    /// Which of a socket's ports to search for.
    enum Side {
        case local
        case remote
    }

    private let socket: NetlinkSocket

    /// All states (tcp_states.h) except TIME_WAIT, CLOSE and LISTEN: connections that are open or being opened.
    private static let liveStates: UInt32 = ((1 << 13) - 2) & ~((1 << 6) | (1 << 7) | (1 << 10))

    /// TCP_LISTEN, and TCP_CLOSE, which an unconnected UDP socket has.
    private static let (listenState, unconnectedState): (UInt32, UInt32) = (1 << 10, 1 << 7)

    init() throws(DiversionError) {
        self.socket = try NetlinkSocket(NETLINK_SOCK_DIAG, about: "The kernel's list of connections (sock_diag)")
    }

    /// Live sockets with this port.
    func sockets(_ side: Side, _ port: UInt16) throws(DiversionError) -> [Socket] {
        var result: [Socket] = []
        for family in [AF_INET, AF_INET6] {
            var request = Self.request(
                UInt8(family),
                type: UInt16(SOCK_DIAG_BY_FAMILY),
                flags: NLM_F_REQUEST | NLM_F_DUMP
            )
            request.1.idiag_states = Self.liveStates
            // The kernel reports a subflow's protocol only with this extension.
            request.1.idiag_ext = 1 << UInt8(INET_DIAG_INFO - 1)
            switch side {
            case .local: request.1.id.idiag_sport = port.bigEndian
            case .remote: request.1.id.idiag_dport = port.bigEndian
            }
            try self.send(request)
            try self.socket.receive { message, body in
                guard message == UInt16(SOCK_DIAG_BY_FAMILY), let socket = Socket(body) else { return true }
                // The IPv6 dump may contain IPv4 sockets, which the IPv4 dump lists.
                if socket.family == UInt8(family) { result.append(socket) }
                return true
            }
        }
        return result
    }

    /// Whether a socket takes clients on this port: a listener of TCP, or an unconnected socket of UDP.
    func isListenedOn(_ port: ServicePort) throws(DiversionError) -> Bool {
        var found = false
        for family in [AF_INET, AF_INET6] {
            var request = Self.request(
                UInt8(family),
                type: UInt16(SOCK_DIAG_BY_FAMILY),
                flags: NLM_F_REQUEST | NLM_F_DUMP
            )
            if port.transport == .udp { request.1.sdiag_protocol = UInt8(IPPROTO_UDP) }
            request.1.idiag_states = port.transport == .udp ? Self.unconnectedState : Self.listenState
            request.1.id.idiag_sport = port.number.bigEndian
            try self.send(request)
            let code = try self.socket.receive { message, _ in
                found = found || message == UInt16(SOCK_DIAG_BY_FAMILY)
                return true
            }
            guard code == 0 else { throw self.socket.error("doesn't tell of listeners", code) }
        }
        return found
    }

    enum Destroyed {
        case ended
        case gone
        case unsupported
    }

    /// Ends a connection at both ends now: its program gets ECONNABORTED, its peer a reset.
    func destroy(_ socket: Socket) throws(DiversionError) -> Destroyed {
        var request = Self.request(socket.family, type: UInt16(SOCK_DESTROY), flags: NLM_F_REQUEST | NLM_F_ACK)
        request.1.idiag_states = Self.liveStates
        request.1.id = socket.id
        try self.send(request)
        let code = try self.socket.receive { _, _ in true }
        switch code {
        case 0: return .ended
        case ENOENT: return .gone
        case EOPNOTSUPP: return .unsupported
        default: throw self.socket.error("doesn't end a connection", code)
        }
    }

    // MARK: Netlink

    private typealias Request = (nlmsghdr, inet_diag_req_v2)

    private static func request(_ family: UInt8, type: UInt16, flags: CInt) -> Request {
        var header = nlmsghdr()
        header.nlmsg_len = UInt32(MemoryLayout<nlmsghdr>.size + MemoryLayout<inet_diag_req_v2>.size)
        header.nlmsg_type = type
        header.nlmsg_flags = UInt16(flags)
        var body = inet_diag_req_v2()
        body.sdiag_family = family
        body.sdiag_protocol = UInt8(IPPROTO_TCP)
        body.id.idiag_cookie = (.max, .max)
        return (header, body)
    }

    private func send(_ request: Request) throws(DiversionError) {
        var bytes: [UInt8] = []
        withUnsafeBytes(of: request.0) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: request.1) { bytes.append(contentsOf: $0) }
        try self.socket.send(bytes)
    }
}

extension SocketDiagnosis.Socket {
    /// Parses an `inet_diag_msg` and its attributes.
    fileprivate init?(_ bytes: UnsafeRawBufferPointer) {
        let size = MemoryLayout<inet_diag_msg>.size
        guard bytes.count >= size else { return nil }
        let message = bytes.loadUnaligned(as: inet_diag_msg.self)
        self.family = message.idiag_family
        self.id = message.id
        let isIPv4 = CInt(message.idiag_family) == AF_INET
        self.local = .init(message.id.idiag_src, message.id.idiag_sport, isIPv4: isIPv4)
        self.remote = .init(message.id.idiag_dst, message.id.idiag_dport, isIPv4: isIPv4)
        var rest = UnsafeRawBufferPointer(rebasing: bytes[size...])
        let headerSize = MemoryLayout<nlattr>.size
        while rest.count >= headerSize {
            let header = rest.loadUnaligned(as: nlattr.self)
            let length = Int(header.nla_len)
            guard length >= headerSize, length <= rest.count else { break }
            if Int(header.nla_type) == Int(INET_DIAG_MARK), length >= headerSize + 4 {
                self.mark = rest.loadUnaligned(fromByteOffset: headerSize, as: UInt32.self)
            }
            if Int(header.nla_type & 0x3FFF) == Int(INET_DIAG_ULP_INFO) {
                self.isSubflow = Self.isMultipath(UnsafeRawBufferPointer(rebasing: rest[headerSize..<length]))
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[min((length + 3) & ~3, rest.count)...])
        }
    }

    /// Recognised by the name of the upper-layer protocol.
    private static func isMultipath(_ attributes: UnsafeRawBufferPointer) -> Bool {
        var isMultipath = false
        ConntrackMessage.attributes(attributes) { type, value in
            guard Int(type) == Int(INET_ULP_INFO_NAME) else { return }
            isMultipath = value.prefix { $0 != 0 }.elementsEqual("mptcp".utf8)
        }
        return isMultipath
    }
}

extension SocketDiagnosis.End {
    /// Four words in network order; for IPv4 only the first is used.
    fileprivate init(_ words: (UInt32, UInt32, UInt32, UInt32), _ port: UInt16, isIPv4: Bool) {
        let bytes = withUnsafeBytes(of: words) { Array($0) }
        self.address = isIPv4 ? Self.mappedPrefix + bytes.prefix(4) : bytes
        self.port = UInt16(bigEndian: port)
    }
}
#endif
