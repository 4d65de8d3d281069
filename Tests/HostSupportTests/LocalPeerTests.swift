import Libc
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import HostSupport

@Suite struct LocalPeerTests {
    @Test func `this process is here`() throws {
        var ends: [CInt] = [-1, -1]
        #expect(socketpair(AF_UNIX, SocketType.stream, 0, &ends) == 0)
        defer { for end in ends { close(end) } }
        let peer = try #require(LocalPeer(of: ends[0]))
        #expect(peer.user == geteuid() && peer.group == getegid())
        #expect(peer.place() == .here)
    }

    @Test func `what is no socket has no peer`() throws {
        let file = open("/dev/null", O_RDONLY)
        defer { close(file) }
        #expect(LocalPeer(of: file) == nil)
    }

    /// One that is alone, and one of which there are two.
    @Test func `the only one that is wanted is found`() throws {
        let prefix = "kl-test-\(getpid())/"
        #expect(try AbstractSocket.connect(toOnlyOneOf: [prefix + "a"]) { _ in true } == .none)
        let listeners = try ["a", "b"].map { try AbstractSocket.listen(prefix + $0) }
        defer { for listener in listeners { close(listener) } }
        let names = try AbstractSocket.names(from: prefix)
        #expect(names == [prefix + "a", prefix + "b"])
        #expect(try AbstractSocket.connect(toOnlyOneOf: names) { _ in true } == .several(names))
        #expect(try AbstractSocket.connect(toOnlyOneOf: names) { _ in false } == .othersOnly)
        let found = try AbstractSocket.connect(toOnlyOneOf: [prefix + "a", prefix + "c"]) { $0.place() == .here }
        guard case .connected(let socket, prefix + "a") = found else {
            Issue.record("it isn't found")
            return
        }
        close(socket)
    }

    // MARK: A server that asks who it is

    private struct Message: Codable, Equatable {
        var text: String
    }

    private func withServer(
        lifetime: TimeAmount? = nil,
        isStranger: @escaping @Sendable (LocalPeer) -> Bool = { $0.place() != .here },
        _ body: (_ path: String) throws -> Void
    ) throws {
        let scratch = try Scratch()
        // Of its own: what other tests do on the shared ones may take long, such as writing to a busy disk.
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        defer { try? group.syncShutdownGracefully() }
        let eventLoop = group.next()
        let descriptor = try LocalSocket.listen(at: scratch.path + "/s")
        let server = try eventLoop.flatSubmit {
            let server = JSONLinesServer<Message, Message>(
                eventLoop: eventLoop,
                connectionsAtMost: 1,
                lifetime: lifetime,
                isStranger: isStranger,
                mayConnect: { _ in true },
                onConnect: { _ in },
                onRequest: { request, connection in connection.send(request) }
            )
            let bound = NIOLoopBound(server, eventLoop: eventLoop)
            return server.start(on: descriptor).map { bound }
        }.wait()
        defer { eventLoop.execute { server.value.close() } }
        try body(scratch.path + "/s")
    }

    private func isEnded(_ client: JSONLinesClient) throws -> Bool {
        if case .ended = try client.receive(Message.self, within: 60_000) { true } else { false }
    }

    private func says(_ client: JSONLinesClient, _ text: String) throws -> Bool {
        try client.send(Message(text: text))
        guard case .message(let answer) = try client.receive(Message.self, within: 60_000) else { return false }
        return answer.text == text
    }

    private final class Strangers: Sendable {
        let areStrange = Atomic(false)
    }

    /// The server has room for one. Whoever is refused isn't that one.
    @Test func `a stranger takes nobody's place`() throws {
        let all = Strangers()
        let isStranger = { @Sendable (peer: LocalPeer) in
            all.areStrange.load(ordering: .relaxed) || peer.place() != .here
        }
        try self.withServer(isStranger: isStranger) { path in
            let known = try #require(try JSONLinesClient(path: path))
            #expect(try self.says(known, "one"))
            all.areStrange.store(true, ordering: .relaxed)
            for _ in 0..<3 { #expect(try self.isEnded(#require(try JSONLinesClient(path: path)))) }
            #expect(try self.says(known, "two"))
            all.areStrange.store(false, ordering: .relaxed)
            let next = try #require(try JSONLinesClient(path: path))
            #expect(try self.says(next, "three"))
            #expect(try self.isEnded(known))
        }
    }

    @Test func `a connection has its time`() throws {
        try self.withServer(lifetime: .milliseconds(200)) { path in
            let slow = try #require(try JSONLinesClient(path: path))
            #expect(send(slow.rawDescriptor, "{\"te", 4, CInt(MSG_NOSIGNAL)) == 4)
            #expect(try self.isEnded(slow))
        }
    }
}
