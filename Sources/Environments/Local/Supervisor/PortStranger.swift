import NIOCore

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Tells a service that listens on its own port from another program that has the port: to a client both look alike.
struct PortStranger {
    /// What listened before the service's process was started, by port: nothing of that is the service's.
    private let before: [UInt16: Set<String>]
    /// The service's process group.
    private let group: Int32
    /// What each process of the service has among its variables.
    private let mark: String

    /// Programs that hold a port in the name of a container, which the service's command may have started.
    private static let forwarders: Set<String> = [
        "docker-proxy", "rootlesskit", "rootlessport", "slirp4netns", "pasta", "conmon",
    ]

    /// - Parameter before: of `listening(on:)`, before the service's process was there; empty where it was there already.
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

    /// Nobody listens on any address. This is quick, and nearly always so.
    private static func isFree(_ port: UInt16) -> Bool {
        guard let address = try? SocketAddress(ipAddress: "::", port: Int(port)) else { return false }
        let descriptor = socket(AF_INET6, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var (on, off): (CInt, CInt) = (1, 0)
        let size = socklen_t(MemoryLayout<CInt>.size)
        // Connections of before that still wait for their end are in nobody's way.
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, size)
        setsockopt(descriptor, CInt(IPPROTO_IPV6), IPV6_V6ONLY, &off, size)
        return address.withSockAddr { bind(descriptor, $0, socklen_t($1)) == 0 }
    }

    /// `python3 (pid 4711)`: who has the port in the service's place. Nil: the service, or nobody can tell.
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

    /// The leader is asked first: with a thousand services nobody wants to look at all processes for each.
    private func isOwn(_ sockets: Set<String>) -> Bool {
        PortOwner.has(self.group, anyOf: sockets)
            || RunningProcesses.inGroup(self.group).contains { PortOwner.has($0.pid, anyOf: sockets) }
            || RunningProcesses.withEnvironment(SupervisorMark.variable, prefix: self.mark)
                .contains { $0.rest.isEmpty && PortOwner.has($0.process.pid, anyOf: sockets) }
    }
}
