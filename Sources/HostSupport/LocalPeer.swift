import Libc

/// The process at the other end of a connected Unix socket, as the kernel knows it: the one that connected; of a listening
/// socket, the one that called listen(2).
public struct LocalPeer: Sendable {
    public let user: UInt32
    public let group: UInt32
    /// 0: the process is in a PID namespace that this process can't see into.
    private let process: Int32
    private let descriptor: CInt

    /// - Parameter descriptor: the socket, which must stay open while this value is used.
    public init?(of descriptor: CInt) {
        guard let credentials = LocalSocket.peer(of: descriptor) else { return nil }
        self.user = credentials.user
        self.group = credentials.group
        self.process = credentials.pid
        self.descriptor = descriptor
    }

    public enum Place: Equatable, Sendable {
        /// The process sees the files that this process sees.
        case here
        /// The process is in another mount namespace, usually another container's.
        case elsewhere
        /// It can't be determined: an errno code.
        case unknown(CInt)
    }

    /// Whether the process is in this one's mount namespace. A container that shares the network with another one can reach
    /// its abstract sockets, and root in both is the same user to the kernel; but each container has mounts of its own.
    public func place() -> Place {
        guard self.process > 0 else { return .elsewhere }
        // The pidfd is used at the end: if the process still runs then, its number belonged to no other process meanwhile.
        let handle = self.handle()
        defer { if case .process(let handle) = handle { close(handle) } }
        if case .none(let code) = handle { return .unknown(code) }
        // Another PID namespace's /proc may be mounted here, in which the number would be another process's.
        guard Self.link("/proc/self") == "\(getpid())" else { return .unknown(ESRCH) }
        guard let own = Self.link("/proc/self/ns/mnt") else { return .unknown(errno) }
        guard let its = Self.link("/proc/\(self.process)/ns/mnt") else { return .unknown(errno) }
        if case .process(let handle) = handle, Self.hasEnded(handle) { return .unknown(ESRCH) }
        return its == own ? .here : .elsewhere
    }

    private enum Handle {
        case process(CInt)
        /// The kernel has no pidfd for a socket's peer (before Linux 6.5).
        case notKnown
        case none(CInt)
    }

    private func handle() -> Handle {
        var handle: CInt = -1
        var size = socklen_t(MemoryLayout<CInt>.size)
        guard getsockopt(self.descriptor, SOL_SOCKET, Self.peerHandle, &handle, &size) != 0 else {
            return .process(handle)
        }
        return errno == ENOPROTOOPT ? .notKnown : .none(errno)
    }

    /// SO_PEERPIDFD (asm-generic/socket.h), which older C libraries lack.
    private static let peerHandle: CInt = 77

    private static func hasEnded(_ handle: CInt) -> Bool {
        var polled = pollfd(fd: handle, events: Int16(POLLIN), revents: 0)
        var count = poll(&polled, 1, 0)
        while count < 0, errno == EINTR { count = poll(&polled, 1, 0) }
        return count != 0
    }

    /// Where a link of /proc leads, as text; nil and errno.
    private static func link(_ path: String) -> String? {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { target in
            guard let start = target.baseAddress else { return nil }
            let count = readlink(path, start, target.count)
            guard count >= 0 else { return nil }
            return String(decoding: UnsafeRawBufferPointer(start: start, count: count), as: UTF8.self)
        }
    }
}
