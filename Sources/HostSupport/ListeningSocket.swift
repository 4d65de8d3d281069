import Libc
import NIOCore

/// Holds a port open, whichever process accepts or reads from it: connections or datagrams meanwhile wait in it.
public final class ListeningSocket {
    public let descriptor: CInt
    public let host: String
    public let port: UInt16

    /// - Parameters:
    ///   - port: 0 means any free one.
    ///   - isUDP: whether it takes datagrams instead of connections.
    public init(host: String, port: UInt16, isUDP: Bool = false) throws(HostError) {
        let what = "\(host):\(port) can't be listened on"
        guard let address = try? SocketAddress(ipAddress: host, port: Int(port)) else {
            throw HostError(what, code: EADDRNOTAVAIL)
        }
        let family = address.protocol == .inet6 ? AF_INET6 : AF_INET
        let kind = isUDP ? SOCK_DGRAM : SOCK_STREAM
        let type = CInt(kind.rawValue) | SocketType.closedByExec | CInt(SOCK_NONBLOCK.rawValue)
        let descriptor = socket(family, type, 0)
        guard descriptor >= 0 else { throw HostError(what, code: errno) }
        var on: CInt = 1
        let size = socklen_t(MemoryLayout<CInt>.size)
        // With UDP, SO_REUSEADDR would let other sockets bind the same port.
        if !isUDP { setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, size) }
        // So that [::] and 0.0.0.0 can both be used.
        if family == AF_INET6 { setsockopt(descriptor, CInt(IPPROTO_IPV6), IPV6_V6ONLY, &on, size) }
        let isBound = address.withSockAddr { bind(descriptor, $0, socklen_t($1)) == 0 }
        guard isBound, isUDP || listen(descriptor, 4_096) == 0 else {
            let code = errno
            close(descriptor)
            throw HostError(what, code: code)
        }
        self.descriptor = descriptor
        self.host = host
        self.port = localPort(of: descriptor) ?? port
    }

    deinit { close(self.descriptor) }
}
