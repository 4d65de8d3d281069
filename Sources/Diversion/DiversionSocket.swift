import Libc

/// A socket on a free port for redirected clients, for both IPv4 and IPv6 if the namespace has both.
enum DiversionSocket {
    /// A listening TCP socket.
    static func open() throws(DiversionError) -> CInt { try Self.open(SOCK_STREAM) }

    static func openForDatagrams() throws(DiversionError) -> CInt { try Self.open(SOCK_DGRAM) }

    private static func open(_ type: __socket_type) throws(DiversionError) -> CInt {
        do throws(DiversionError) {
            return try Self.open(type, AF_INET6)
        } catch {
            // IPv6 may be disabled.
            return try Self.open(type, AF_INET)
        }
    }

    private static func open(_ type: __socket_type, _ family: CInt) throws(DiversionError) -> CInt {
        let descriptor = socket(family, CInt(type.rawValue), 0)
        guard descriptor >= 0 else { throw Self.error(errno) }
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
        let isBound: Bool
        if family == AF_INET6 {
            var off: CInt = 0
            setsockopt(descriptor, CInt(IPPROTO_IPV6), IPV6_V6ONLY, &off, socklen_t(MemoryLayout<CInt>.size))
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            isBound = Self.bind(descriptor, &address)
        } else {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            isBound = Self.bind(descriptor, &address)
        }
        guard isBound, type == SOCK_DGRAM || listen(descriptor, 4_096) == 0 else {
            let code = errno
            close(descriptor)
            throw Self.error(code)
        }
        do throws(DiversionError) {
            try Self.checkProtocol(of: descriptor)
        } catch {
            close(descriptor)
            throw error
        }
        return descriptor
    }

    /// A wrapper such as mptcpize, or an eBPF program, may have turned the socket into Multipath TCP. Such connections
    /// don't tell the address that the client called (SO_ORIGINAL_DST), so each would be refused.
    static func checkProtocol(of descriptor: CInt) throws(DiversionError) {
        #if os(Linux)
        var number: CInt = 0
        var size = socklen_t(MemoryLayout<CInt>.size)
        guard getsockopt(descriptor, SOL_SOCKET, SO_PROTOCOL, &number, &size) == 0, number == Self.multipath else {
            return
        }
        throw DiversionError(
            """
            Redirected connections can't be taken by Multipath TCP, and something has made it of this sidecar's TCP. Start it \
            without mptcpize, and exempt it from eBPF programs that do the same.
            """
        )
        #endif
    }

    /// IPPROTO_MPTCP (linux/in.h).
    static let multipath: CInt = 262

    private static func bind<Address>(_ descriptor: CInt, _ address: inout Address) -> Bool {
        withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.bind(descriptor, $0, socklen_t(MemoryLayout<Address>.size)) == 0
            }
        }
    }

    private static func error(_ code: CInt) -> DiversionError {
        DiversionError("Redirected connections can't be listened for: \(String(cString: strerror(code))).")
    }
}
