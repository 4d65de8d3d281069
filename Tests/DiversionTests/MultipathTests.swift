#if os(Linux)
import Libc
import Testing

@testable import Diversion

struct MultipathTests {
    private static let isThere: Bool = {
        let descriptor = socket(AF_INET, SocketType.stream, DiversionSocket.multipath)
        if descriptor >= 0 { close(descriptor) }
        return descriptor >= 0
    }()

    @Test(.enabled(if: Self.isThere, "this kernel has no Multipath TCP"))
    func aListenerThatIsNoPlainTCPIsRefused() throws {
        let descriptor = socket(AF_INET6, SocketType.stream, DiversionSocket.multipath)
        defer { close(descriptor) }
        let error = #expect(throws: DiversionError.self) { try DiversionSocket.checkProtocol(of: descriptor) }
        #expect(error?.description.contains("mptcpize") == true)
    }

    @Test func plainListenersAreNot() throws {
        for descriptor in [try DiversionSocket.open(), try DiversionSocket.openForDatagrams()] {
            try DiversionSocket.checkProtocol(of: descriptor)
            close(descriptor)
        }
    }
}
#endif
