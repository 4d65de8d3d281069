import Libc
import Testing

@testable import HostSupport

@Suite struct NotificationSocketTests {
    private let name = "kl-test-\(UInt64.random(in: .min ... .max))"

    @Test func `each datagram says who sent it`() throws {
        let socket = try #require(try NotificationSocket(name: self.name))
        #expect(socket.name == "@\(self.name)")
        try self.send("READY=1\nX_KL_OPEN=2", to: self.name)
        let datagram = try #require(socket.next())
        #expect(datagram.sender == getpid())
        #expect(datagram.fields == ["READY": "1", "X_KL_OPEN": "2"])
    }

    @Test(arguments: [("A=b=c", "A", "b=c"), ("A=", "A", ""), ("=b", "", "b"), ("A=\u{301}b", "A", "\u{301}b")])
    func `a field is parted at its first equals sign`(text: String, name: String, value: String) {
        #expect(NotificationSocket.parse(text.utf8) == [name: value])
        #expect(Assignment(name) == nil)
    }

    @Test func `in a folder it is this user's alone`() throws {
        let path = "/tmp/\(self.name).sock"
        defer { unlink(path) }
        for _ in 0..<2 {
            let socket = try #require(try NotificationSocket(path: path), "what is there is removed")
            #expect(socket.name == path)
            var status = stat()
            #expect(lstat(path, &status) == 0 && status.st_mode & 0o7777 & ~0o600 == 0)
        }
        #expect(try NotificationSocket(path: "/tmp/" + String(repeating: "a", count: 103)) == nil, "108 bytes")
        #expect(throws: HostError.self) { try NotificationSocket(path: "/nowhere/\(self.name)") }
    }

    @Test func `a name is one socket's`() throws {
        let first = try #require(try NotificationSocket(name: self.name))
        #expect(try NotificationSocket(name: self.name) == nil)
        withExtendedLifetime(first) {}
    }

    @Test(
        arguments: [
            ("", [:]), ("\n\n", [:]), ("READY", [:]), ("=1", ["": "1"]), ("A=b=c", ["A": "b=c"]),
            ("A=1\nA=2\n", ["A": "2"]),
            ("A=", ["A": ""]),
        ] as [(String, [String: String])]
    )
    func `fields`(text: String, fields: [String: String]) {
        #expect(NotificationSocket.parse(Array(text.utf8)) == fields)
    }

    private func send(_ text: String, to name: String) throws {
        let sender = socket(AF_UNIX, SocketType.datagram, 0)
        defer { close(sender) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: [0] + Array(name.utf8)) }
        let size = socklen_t(MemoryLayout<sa_family_t>.size + 1 + name.utf8.count)
        let count = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(sender, text, text.utf8.count, 0, $0, size)
            }
        }
        try #require(count == text.utf8.count)
    }
}
