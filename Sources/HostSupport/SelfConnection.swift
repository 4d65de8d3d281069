public import NIOCore
import NIOPosix

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Sockets that are connected to themselves.
///
/// The kernel chooses a connecting socket's port. Where nothing listens at the port that is dialled, and it is one of those
/// that the kernel chooses from, it may choose that very one: TCP then connects a socket to itself (RFC 9293 §3.5, both ends
/// open at once), and UDP sends a socket its own datagrams. A client then reads its own question as the answer, and the server
/// can't have its port. So all code that dials looks here before it sends anything, and takes it for a refusal.
public enum SelfConnection {
    /// Whether both ends of this socket are one: address, port and scope.
    public static func isOne(_ descriptor: CInt) -> Bool {
        guard let local = End(descriptor, getsockname), let remote = End(descriptor, getpeername) else { return false }
        return local == remote
    }

    /// The socket's close is a reset from now on: a proper one would keep the port for a minute (TIME_WAIT).
    ///
    /// - Returns: whether it is connected to itself; otherwise nothing is done.
    public static func willReset(_ descriptor: CInt) -> Bool {
        guard Self.isOne(descriptor) else { return false }
        var noTime = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &noTime, socklen_t(MemoryLayout<linger>.size))
        return true
    }

    /// Closes a channel that is connected to itself. Call it on its event loop, before anything is sent.
    ///
    /// - Returns: whether it was.
    public static func closes(_ channel: any Channel) -> Bool {
        // NIO knows both ends: most sockets are told apart without asking the kernel.
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

        /// nil: the socket has no such end, or one of another family than IP's.
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
                // The flow label is no part of where an end is.
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
    /// Fails with ECONNREFUSED where the channel is connected to itself, and closes it.
    public func refusingItself() -> EventLoopFuture<any Channel> {
        self.flatMapThrowing { channel in
            guard !SelfConnection.closes(channel) else {
                throw IOError(errnoCode: ECONNREFUSED, reason: "connect: this socket itself")
            }
            return channel
        }
    }
}
