import Libc
import NIOCore

/// Tells whether the service or another program listens on the service's own port: a client can't see the difference.
struct PortStranger {
    /// The sockets that listened before the service's process was started, by port; none of them is the service's.
    private let before: [UInt16: Set<String>]
    /// The service's process group.
    private let group: Int32
    /// The value of the mark variable in each process of the service.
    private let mark: String

    /// Programs that hold a port on behalf of a container, which the service's command may have started.
    private static let forwarders: Set<String> = [
        "docker-proxy", "rootlesskit", "rootlessport", "slirp4netns", "pasta", "conmon",
    ]

    /// - Parameter before: the result of `listening(on:)` before the service's process was started; empty for an adopted
    ///   process.
    init(before: [UInt16: Set<String>], group: Int32, mark: String) {
        self.before = before
        self.group = group
        self.mark = mark
    }

    static func listening(on ports: [UInt16]) -> [UInt16: Set<String>] {
        var result: [UInt16: Set<String>] = [:]
        for port in Set(ports) where !Self.isFree(port) {
            let sockets = PortOwner.listening(on: port)
            if !sockets.isEmpty { result[port] = sockets }
        }
        return result
    }

    /// Whether no process listens on any address. This check is quick, and nearly always true.
    private static func isFree(_ port: UInt16) -> Bool {
        guard let address = try? SocketAddress(ipAddress: "::", port: Int(port)) else { return false }
        let descriptor = socket(AF_INET6, SocketType.stream | SocketType.closedByExec, 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var (on, off): (CInt, CInt) = (1, 0)
        let size = socklen_t(MemoryLayout<CInt>.size)
        // Old connections in TIME_WAIT mustn't count.
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, size)
        setsockopt(descriptor, CInt(IPPROTO_IPV6), IPV6_V6ONLY, &off, size)
        return address.withSockAddr { bind(descriptor, $0, socklen_t($1)) == 0 }
    }

    /// `python3 (pid 4711)`: the program that has the port in the service's place. Nil: the service has it, or it can't be
    /// told.
    func find(on port: UInt16) -> String? {
        let sockets = PortOwner.listening(on: port)
        guard !sockets.isEmpty, !self.isOwn(sockets) else { return nil }
        let new = sockets.subtracting(self.before[port] ?? [])
        if new.isEmpty { return PortOwner.find(sockets).map(PortOwner.text) ?? "another user's process" }
        guard let pid = PortOwner.find(new), !Self.forwarders.contains(RunningProcesses.name(of: pid) ?? "") else {
            return nil
        }
        return PortOwner.text(pid)
    }

    /// The group's leader is checked first, since a scan of all processes for each of a thousand services would be slow.
    private func isOwn(_ sockets: Set<String>) -> Bool {
        PortOwner.has(self.group, anyOf: sockets)
            || RunningProcesses.inGroup(self.group).contains { PortOwner.has($0.pid, anyOf: sockets) }
            || RunningProcesses.withEnvironment(SupervisorMark.variable, prefix: self.mark)
                .contains { $0.rest.isEmpty && PortOwner.has($0.process.pid, anyOf: sockets) }
    }
}
