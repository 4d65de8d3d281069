#if os(Linux)
import CNetlink
import Libc
import NIOCore

/// Sends a datagram from a client's address to the address that the client called, and one back.
///
/// The agent may not get the answers to what it sends with a client's address: another program's rule may decide first, or the
/// packets may not be tracked. Not all such causes are known, so the agent tries it with the first client's own address. Both
/// sockets are the agent's, and the packets stay in the kernel.
struct AnswerProbe: ~Copyable {
    private let descriptor: CInt

    /// The packets arrive during the call that sends them, except under load. †
    private static let patience: CInt = 100

    private init(_ family: CInt) throws(DiversionError) {
        self.descriptor = socket(family, SocketType.datagram | SocketType.closedByExec, 0)
        guard self.descriptor >= 0 else { throw Self.error(errno) }
    }

    deinit { close(self.descriptor) }

    /// - Throws: an error that says why no answer came back.
    static func check(from client: SocketAddress, to called: SocketAddress) throws(DiversionError) {
        let family = client.protocol == .inet ? AF_INET : AF_INET6
        let server = try AnswerProbe(family)
        let own = try AnswerProbe(family)
        var place = called
        place.port = 0
        let isBound = place.withSockAddr { bind(server.descriptor, $0, socklen_t($1)) } == 0
        guard isBound, let address = server.name(getsockname) else { throw Self.error(errno) }
        OwnSocket.set(own.descriptor, SOL_SOCKET, SO_MARK, CInt(bitPattern: RedirectDiversion.mark))
        let code = OwnSocket.bind(own.descriptor, to: client)
        guard code == 0 else { throw Self.error(code) }
        guard address.connect(own.descriptor) == 0 else { throw Self.error(errno) }
        let word = UInt64.random(in: .min ... .max)
        own.send(word)
        guard server.receives(word), let name = own.name(getsockname), name.connect(server.descriptor) == 0 else {
            throw DiversionError("What is sent with the client's address \(client) doesn't arrive.")
        }
        server.send(word)
        guard own.receives(word) else {
            throw DiversionError("What answers the client's address \(client) doesn't come back here.")
        }
    }

    private struct Name {
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)

        mutating func withPointer<Result>(_ body: (UnsafeMutablePointer<sockaddr>, inout socklen_t) -> Result) -> Result
        {
            withUnsafeMutablePointer(to: &self.storage) { storage in
                storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, &self.size) }
            }
        }

        func connect(_ descriptor: CInt) -> CInt {
            var name = self
            return name.withPointer { Libc.connect(descriptor, $0, $1) }
        }
    }

    private func name(
        _ ask: (CInt, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> CInt
    ) -> Name? {
        var name = Name()
        return name.withPointer { ask(self.descriptor, $0, &$1) } == 0 ? name : nil
    }

    private func send(_ word: UInt64) {
        _ = withUnsafeBytes(of: word) { Libc.send(self.descriptor, $0.baseAddress, $0.count, CInt(MSG_DONTWAIT)) }
    }

    private func receives(_ word: UInt64) -> Bool {
        var poller = pollfd(fd: self.descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&poller, 1, Self.patience) == 1 else { return false }
        var received: UInt64 = 0
        let count = withUnsafeMutableBytes(of: &received) {
            recv(self.descriptor, $0.baseAddress, $0.count, CInt(MSG_DONTWAIT))
        }
        return count == MemoryLayout<UInt64>.size && received == word
    }

    private static func error(_ code: CInt) -> DiversionError {
        DiversionError("A socket can't have a client's address: \(String(cString: strerror(code))).")
    }
}
#endif
