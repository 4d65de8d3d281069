import Libc

/// Asks the kernel through netlink(7), by messages that change nothing.
enum KernelQuestion {
    /// Whether the kernel has nf_tables, by asking for its generation number. Nil: only a process with NET_ADMIN may ask.
    static var hasTables: Bool? {
        // nfgenmsg: any family, version 0.
        let body: [UInt8] = [0, 0, 0, 0]
        guard let answer = Self.ask(protocol: 12, type: 10 << 8 | 16, flags: 1, body) else { return nil }
        switch answer {
        case .message: return true
        case .error(EPERM): return nil
        case .error(let code): return code == 0
        }
    }

    /// Whether the kernel has SOCK_DESTROY, by asking it to end a connection between port 0 and port 0, which can't exist.
    static var endsConnections: Bool? {
        // inet_diag_req_v2: IPv4, TCP, every state; then addresses and ports of zeros, and the cookie that means "any".
        var body: [UInt8] = [2, 6, 0, 0] + [255, 255, 255, 255]
        body += [UInt8](repeating: 0, count: 40) + [UInt8](repeating: 255, count: 8)
        guard case .error(let code)? = Self.ask(protocol: 4, type: 21, flags: 1 | 4, body) else { return nil }
        switch code {
        case ENOENT: return true
        case EOPNOTSUPP: return false
        default: return nil
        }
    }

    private enum Answer {
        case message
        /// An errno; 0 is an acknowledgement.
        case error(CInt)
    }

    /// Nil: the question can't be asked here.
    private static func ask(protocol number: CInt, type: UInt16, flags: UInt16, _ body: [UInt8]) -> Answer? {
        #if os(Linux)
        let family: CInt = 16  // AF_NETLINK
        let descriptor = socket(family, CInt(SOCK_RAW.rawValue) | SocketType.closedByExec, number)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var patience = timeval(tv_sec: 1, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        // nlmsghdr: length, type, flags, sequence number, sender.
        var message: [UInt8] = []
        withUnsafeBytes(of: UInt32(16 + body.count)) { message += $0 }
        withUnsafeBytes(of: type) { message += $0 }
        withUnsafeBytes(of: flags) { message += $0 }
        message += [1, 0, 0, 0, 0, 0, 0, 0] + body
        guard send(descriptor, message, message.count, 0) == message.count else { return nil }
        var answer = [UInt8](repeating: 0, count: 8_192)
        let count = recv(descriptor, &answer, answer.count, 0)
        guard count >= 16 else { return nil }
        let kind = answer.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 4, as: UInt16.self) }
        // NLMSG_ERROR
        guard kind == 2 else { return .message }
        guard count >= 20 else { return nil }
        return .error(-answer.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 16, as: Int32.self) })
        #else
        return nil
        #endif
    }
}
