import Libc
import Testing

@testable import ProgramSupport

@Suite struct ServiceNotifierTests {
    @Test func `a message is a line for each field`() {
        #expect(ServiceNotifier.message([("READY", "1"), ("X_KL_OPEN", "2")]) == "READY=1\nX_KL_OPEN=2")
        #expect(ServiceNotifier.message([("X", "a\nREADY=1\r\n")]) == "X=aREADY=1")
        #expect(ServiceNotifier.message([("X_KL_DIVERTING", "")]) == "X_KL_DIVERTING=")
    }

    @Test func `an address is a path, or an abstract name`() {
        #expect(ServiceNotifier.socketName("@kl") == [0, 107, 108])
        #expect(ServiceNotifier.socketName("/a") == [47, 97])
        #expect(ServiceNotifier.socketName("@" + String(repeating: "a", count: 106))?.count == 107)
    }

    @Test(arguments: ["", "@", "/", "relative", "vsock:2:1234", "@" + String(repeating: "a", count: 107)])
    func `nothing else is one`(address: String) {
        #expect(ServiceNotifier.socketName(address) == nil)
    }

    #if os(Linux)
    @Test func `a datagram arrives at an abstract name`() throws {
        let name = "kl-test-\(UInt64.random(in: .min ... .max))"
        let receiver = socket(AF_UNIX, SocketType.datagram, 0)
        defer { close(receiver) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: [0] + Array(name.utf8)) }
        let size = socklen_t(MemoryLayout<sa_family_t>.size + 1 + name.utf8.count)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(receiver, $0, size) }
        }
        #expect(bound == 0)

        let notifier = try #require(ServiceNotifier(to: "@\(name)"))
        #expect(notifier.send([("READY", "1")]))
        var bytes = [UInt8](repeating: 0, count: 100)
        let count = recv(receiver, &bytes, bytes.count, 0)
        #expect(String(decoding: bytes.prefix(max(0, count)), as: UTF8.self) == "READY=1")
    }

    @Test func `nobody there is no failure but an answer`() throws {
        let notifier = try #require(ServiceNotifier(to: "@kl-test-\(UInt64.random(in: .min ... .max))"))
        #expect(!notifier.send([("READY", "1")]))
    }
    #endif
}
