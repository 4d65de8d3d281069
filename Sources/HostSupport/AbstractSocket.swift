import Libc

/// Unix sockets with a name instead of a path (unix(7), abstract): they need no writable file system, belong to a network
/// namespace, and vanish with the listening process.
///
/// Any process in the namespace may connect, or listen under a free name, so both ends check the other's user.
public enum AbstractSocket {
    /// If the name is taken, the error's code is EADDRINUSE.
    public static func listen(_ name: String) throws(HostError) -> CInt {
        let descriptor = try Self.make(name)
        let isListening = Self.withAddress(name) { address, size in
            bind(descriptor, address, size) == 0 && systemListen(descriptor, 64) == 0
        }
        guard isListening else {
            let error = HostError.last(Self.shown(name), "can't be listened on")
            close(descriptor)
            throw error
        }
        return descriptor
    }

    /// † In seconds. A program that isn't stopped accepts a connection within milliseconds.
    private static let patience = 5

    /// nil if no process listens there. If one listens but doesn't accept, the error's code is ETIMEDOUT.
    public static func connect(_ name: String) throws(HostError) -> CInt? {
        let descriptor = try Self.make(name)
        LocalSocket.limitSending(descriptor, timeval(tv_sec: Self.patience, tv_usec: 0))
        let code: CInt = Self.withAddress(name) { address, size in
            while systemConnect(descriptor, address, size) != 0 {
                if errno == EAGAIN { return ETIMEDOUT }
                if errno != EINTR { return errno }
            }
            return 0
        }
        LocalSocket.limitSending(descriptor, timeval())
        guard code != 0 else { return descriptor }
        close(descriptor)
        if code == ECONNREFUSED { return nil }
        throw HostError("\(Self.shown(name)) can't be reached", code: code)
    }

    /// The listening names with this prefix in this network namespace.
    public static func names(from prefix: String) throws(HostError) -> [String] {
        // Fields: Num RefCount Protocol Flags Type St Inode Path; the flag __SO_ACCEPTCON marks listening sockets.
        let text = String(decoding: try SmallFile.read("/proc/self/net/unix", atMost: 16 << 20) ?? [], as: UTF8.self)
        var names: Set<String> = []
        for line in text.split(separator: "\n") {
            let fields = line.split(separator: " ", maxSplits: 7, omittingEmptySubsequences: true)
            guard fields.count == 8, fields[7].hasPrefix("@\(prefix)"), let flags = UInt32(fields[3], radix: 16),
                flags & 0x1_0000 != 0
            else { continue }
            names.insert(String(fields[7].dropFirst()))
        }
        return names.sorted()
    }

    public enum Found: Equatable, Sendable {
        case connected(CInt, name: String)
        case none
        /// Programs listen under such names, but none of them is wanted.
        case othersOnly
        /// Several programs are wanted, which listen under these names.
        case several([String])
    }

    /// Connects to the only wanted program that listens under one of these names. One that can't be reached is an error only if
    /// no other is found.
    public static func connect(
        toOnlyOneOf names: [String],
        where isWanted: (LocalPeer) -> Bool
    ) throws(HostError) -> Found {
        var connections: [(name: String, descriptor: CInt)] = []
        var sawOthers = false
        var failure: HostError?
        for name in names {
            let reached: CInt?
            do throws(HostError) { reached = try Self.connect(name) } catch {
                failure = error
                continue
            }
            guard let descriptor = reached else { continue }
            guard let peer = LocalPeer(of: descriptor), isWanted(peer) else {
                sawOthers = true
                close(descriptor)
                continue
            }
            connections.append((name, descriptor))
        }
        guard let only = connections.first else {
            if let failure { throw failure }
            return sawOthers ? .othersOnly : .none
        }
        guard connections.count == 1 else {
            for connection in connections { close(connection.descriptor) }
            return .several(connections.map(\.name))
        }
        return .connected(only.descriptor, name: only.name)
    }

    private static func shown(_ name: String) -> String { "@\(name.visibleText)" }

    private static func make(_ name: String) throws(HostError) -> CInt {
        let descriptor = socket(AF_UNIX, SocketType.stream | SocketType.closedByExec, 0)
        guard descriptor >= 0 else { throw .last(Self.shown(name), "can't be reached") }
        return descriptor
    }

    private static func withAddress<Result>(
        _ name: String,
        _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
    ) -> Result {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let name = Array(name.utf8.prefix(MemoryLayout.size(ofValue: address.sun_path) - 1))
        // A zero byte, then the name, whose end is given by the address's length only.
        withUnsafeMutableBytes(of: &address.sun_path) { path in
            for (index, byte) in name.enumerated() { path[index + 1] = byte }
        }
        let size = MemoryLayout<sa_family_t>.size + 1 + name.count
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(size)) }
        }
    }
}
