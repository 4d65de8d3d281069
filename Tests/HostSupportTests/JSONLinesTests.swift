import Libc
import NIOCore
import NIOPosix
import Testing

@testable import HostSupport

/// What bind(2) takes off by the umask comes back, and a link in its place is left alone.
@Test func aSocketHasTheModeThatWasAsked() throws {
    let scratch = try Scratch()
    let path = scratch.path + "/socket"
    let descriptor = try LocalSocket.listen(at: path, mode: 0o660)
    defer { close(descriptor) }
    var status = stat()
    #expect(lstat(path, &status) == 0 && status.st_mode & 0o7777 == 0o660)
}

struct JSONLinesTests {
    private struct Message: Codable, Equatable {
        var text: String
    }

    private final class Echo {
        let server: JSONLinesServer<Message, Message>

        init(on eventLoop: any EventLoop, user: @escaping (UInt32) -> Bool) {
            self.server = JSONLinesServer(
                eventLoop: eventLoop,
                mayConnect: user,
                onConnect: { connection in
                    connection.send(Message(text: "hello"))
                    connection.onClose = { connection.close() }
                },
                onRequest: { request, connection in
                    connection.isWaiting = request.text == "wait"
                    connection.send(request)
                }
            )
        }
    }

    /// Runs the body beside a server that listens at this path.
    private func withServer(
        at path: String,
        mayConnect: @escaping @Sendable (UInt32) -> Bool = { $0 == geteuid() },
        _ body: () throws -> Void
    ) throws {
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let descriptor = try LocalSocket.listen(at: path)
        let echo = try eventLoop.flatSubmit {
            let echo = Echo(on: eventLoop, user: mayConnect)
            let bound = NIOLoopBound(echo, eventLoop: eventLoop)
            return echo.server.start(on: descriptor).map { bound }
        }.wait()
        defer { eventLoop.execute { echo.value.server.close() } }
        try body()
    }

    private func next(_ client: JSONLinesClient) throws -> String? {
        switch try client.receive(Message.self, within: 10_000) {
        case .message(let message): message.text
        case .ended: nil
        case .timedOut, .interrupted: "nothing"
        }
    }

    @Test(arguments: [10, 107, 108, 150, 250])
    func aPathOfAnyLength(_ length: Int) throws {
        let scratch = try Scratch()
        // Folders' names have at most 255 bytes.
        let folder = scratch.path + "/" + String(repeating: "f", count: length)
        try SmallFile.makeFolder(folder)
        let path = folder + "/a socket"
        #expect(try JSONLinesClient(path: path) == nil)
        try self.withServer(at: path) {
            let client = try #require(try JSONLinesClient(path: path))
            #expect(try self.next(client) == "hello")
            for text in ["one", "zwei \u{1F600}\n", String(repeating: "x", count: 100_000)] {
                try client.send(Message(text: text))
                #expect(try self.next(client) == text)
            }
            var status = stat()
            #expect(stat(path, &status) == 0)
            #expect(status.st_mode & 0o777 == 0o600)
            client.endSending()
            #expect(try self.next(client) == nil)
        }
    }

    @Test func whoHasBeenAnsweredKeepsNobodyOut() throws {
        let scratch = try Scratch()
        try self.withServer(at: scratch.path + "/s") {
            var answered: [JSONLinesClient] = []
            for number in 0..<65 {
                let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
                #expect(try self.next(client) == "hello")
                try client.send(Message(text: "\(number)"))
                #expect(try self.next(client) == "\(number)")
                answered.append(client)
            }
            #expect(try self.next(answered[0]) == nil)
        }
    }

    /// One that waits for an answer stays, whatever comes.
    @Test func whoWaitsGivesWayToNobody() throws {
        let scratch = try Scratch()
        try self.withServer(at: scratch.path + "/s") {
            var waiting: [JSONLinesClient] = []
            for _ in 0..<64 {
                let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
                #expect(try self.next(client) == "hello")
                try client.send(Message(text: "wait"))
                #expect(try self.next(client) == "wait")
                waiting.append(client)
            }
            let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
            #expect(try self.next(client) == nil)
            try waiting[0].send(Message(text: "done"))
            #expect(try self.next(waiting[0]) == "done")
            let other = try #require(try JSONLinesClient(path: scratch.path + "/s"))
            #expect(try self.next(other) == "hello")
        }
    }

    /// 64 are served at once.
    @Test func whoAsksNothingKeepsNobodyOut() throws {
        let scratch = try Scratch()
        try self.withServer(at: scratch.path + "/s") {
            var idle: [JSONLinesClient] = []
            for _ in 0..<64 {
                let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
                #expect(try self.next(client) == "hello")
                idle.append(client)
            }
            try idle[0].send(Message(text: "first"))
            #expect(try self.next(idle[0]) == "first")
            let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
            #expect(try self.next(client) == "hello")
            try client.send(Message(text: "last"))
            #expect(try self.next(client) == "last")
            // The one that had asked something is still there, and the longest waiting of the others isn't.
            try idle[0].send(Message(text: "again"))
            #expect(try self.next(idle[0]) == "again")
            #expect(try self.next(idle[1]) == nil)
        }
    }

    @Test func whoMayNotIsNotSpokenTo() throws {
        let scratch = try Scratch()
        let nobody: @Sendable (UInt32) -> Bool = { _ in false }
        try self.withServer(at: scratch.path + "/s", mayConnect: nobody) {
            let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
            #expect(try self.next(client) == nil)
        }
    }

    private static let garbage = ["not json\n", "{}\n", "[1,2]\n", String(repeating: "x", count: 300_000)]

    @Test(arguments: garbage.indices)
    func whatCannotBeReadEndsTheConversation(_ number: Int) throws {
        let garbage = Self.garbage[number]
        let scratch = try Scratch()
        try self.withServer(at: scratch.path + "/s") {
            let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
            #expect(try self.next(client) == "hello")
            let bytes = Array(garbage.utf8)
            var sent = 0
            while sent < bytes.count {
                let count = bytes[sent...].withUnsafeBytes {
                    send(client.rawDescriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
                }
                guard count > 0 else { break }
                sent += count
            }
            #expect((try? self.next(client)) ?? nil == nil)
        }
    }

    @Test func aWaitEndsWhenItsTimeIsOverOrItIsInterrupted() throws {
        let scratch = try Scratch()
        try self.withServer(at: scratch.path + "/s") {
            let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
            #expect(try self.next(client) == "hello")
            guard case .timedOut = try client.receive(Message.self, within: 20) else {
                Issue.record("a message came")
                return
            }
            var ends: [CInt] = [-1, -1]
            #expect(pipe(&ends) == 0)
            _ = write(ends[1], "x", 1)
            guard case .interrupted = try client.receive(Message.self, unless: ends[0]) else {
                Issue.record("the wait went on")
                return
            }
            for end in ends { close(end) }
        }
    }

    @Test func whoDoesNotReadTheAnswersIsNotReadEither() throws {
        let scratch = try Scratch()
        try self.withServer(at: scratch.path + "/s") {
            let client = try #require(try JSONLinesClient(path: scratch.path + "/s"))
            let line = Array("{\"text\":\"\(String(repeating: "x", count: 10_000))\"}\n".utf8)
            var sent = 0
            var waited = 0
            // Until nothing has been taken for half a second.
            while waited < 50, sent < 256 * 1_048_576 {
                let rest = line[(sent % line.count)...]
                let count = rest.withUnsafeBytes {
                    send(client.rawDescriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL) | CInt(MSG_DONTWAIT))
                }
                if count > 0 {
                    sent += count
                    waited = 0
                } else {
                    try #require(errno == EAGAIN)
                    usleep(10_000)
                    waited += 1
                }
            }
            #expect(waited == 50, "\(sent) bytes were taken")
        }
    }
}
