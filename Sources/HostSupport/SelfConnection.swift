import Libc
public import NIOCore
import NIOPosix

/// Sockets that are connected to themselves.
///
/// The kernel chooses a connecting socket's port. If nothing listens at the dialled port, and that port is in the kernel's
/// range, the kernel may choose the same one: then TCP connects the socket to itself (RFC 9293 §3.5, simultaneous open),
/// and UDP delivers the socket's own datagrams to it. The client would read its own request as the answer, and the server
/// couldn't bind its port. So all code that dials checks for this before it sends anything, and treats it as a refusal.
public enum SelfConnection {
    /// Whether both ends of this socket have the same address, port and scope.
    public static func isOne(_ descriptor: CInt) -> Bool {
        guard let local = End(descriptor, getsockname), let remote = End(descriptor, getpeername) else { return false }
        return local == remote
    }

    /// Makes closing a self-connected socket a reset: a normal close would occupy the port for a minute (TIME_WAIT).
    ///
    /// - Returns: whether the socket is connected to itself; if not, nothing is changed.
    public static func willReset(_ descriptor: CInt) -> Bool {
        guard Self.isOne(descriptor) else { return false }
        var noTime = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &noTime, socklen_t(MemoryLayout<linger>.size))
        return true
    }

    /// Closes a channel that is connected to itself. Call it on its event loop, before anything is sent.
    ///
    /// - Returns: whether it was connected to itself.
    public static func closes(_ channel: any Channel) -> Bool {
        // NIO knows both addresses, so most channels need no system call here.
        guard channel.localAddress?.port == channel.remoteAddress?.port else { return false }
        let isOne = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
            of: NIOBSDSocket.Handle.self
        ) { Self.willReset($0) }
        guard isOne ?? false else { return false }
        channel.close(promise: nil)
        return true
    }

    private struct End: Equatable {
        private var family: sa_family_t
        private var port: in_port_t
        private var scope: UInt32 = 0
        private var address: [UInt8]

        /// nil if the socket has no such end, or it isn't an IP address.
        init?(
            _ descriptor: CInt,
            _ ask: (CInt, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> CInt
        ) {
            var storage = sockaddr_storage()
            var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let result = withUnsafeMutablePointer(to: &storage) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { ask(descriptor, $0, &size) }
            }
            guard result == 0 else { return nil }
            self.family = storage.ss_family
            switch CInt(storage.ss_family) {
            case AF_INET:
                let end = withUnsafeBytes(of: &storage) { $0.loadUnaligned(as: sockaddr_in.self) }
                self.port = end.sin_port
                self.address = withUnsafeBytes(of: end.sin_addr) { Array($0) }
            case AF_INET6:
                // The flow label isn't part of an address.
                let end = withUnsafeBytes(of: &storage) { $0.loadUnaligned(as: sockaddr_in6.self) }
                self.port = end.sin6_port
                self.scope = end.sin6_scope_id
                self.address = withUnsafeBytes(of: end.sin6_addr) { Array($0) }
            default: return nil
            }
        }
    }
}

extension EventLoopFuture where Value == any Channel {
    /// Fails with ECONNREFUSED and closes the channel if it is connected to itself.
    public func refusingItself() -> EventLoopFuture<any Channel> {
        self.flatMapThrowing { channel in
            guard !SelfConnection.closes(channel) else {
                throw IOError(errnoCode: ECONNREFUSED, reason: "connect: this socket itself")
            }
            return channel
        }
    }
}
