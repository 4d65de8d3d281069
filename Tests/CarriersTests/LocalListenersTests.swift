#if os(Linux)
import Libc
import NIOCore
import Testing

@testable import Carriers

@Suite struct LocalListenersTests {
    private struct InUse: Error {}

    /// A socket that is bound to a port of its own, and listens.
    final class Listener {
        let port: Int
        private let descriptor: CInt

        init(_ host: String, port: Int = 0, listens: Bool = true, isForIPv6Alone: Bool = false) throws {
            let address = try SocketAddress(ipAddress: host, port: port)
            let family = address.protocol == .inet ? AF_INET : AF_INET6
            let descriptor = socket(family, SocketType.stream, 0)
            self.descriptor = descriptor
            var only: CInt = isForIPv6Alone ? 1 : 0
            if family == AF_INET6 {
                setsockopt(descriptor, CInt(IPPROTO_IPV6), IPV6_V6ONLY, &only, socklen_t(MemoryLayout<CInt>.size))
            }
            guard address.withSockAddr({ bind(descriptor, $0, socklen_t($1)) }) == 0 else {
                close(descriptor)
                throw InUse()
            }
            if listens { try #require(listen(descriptor, 1) == 0) }
            var storage = sockaddr_storage()
            var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let isNamed = withUnsafeMutablePointer(to: &storage) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) == 0 }
            }
            try #require(isNamed)
            // At the same place in both families.
            self.port = withUnsafeBytes(of: storage) { Int($0[2]) << 8 | Int($0[3]) }
        }

        deinit { close(self.descriptor) }
    }

    private static func has(_ host: String, _ port: Int) throws -> Bool? {
        try LocalListeners().has(SocketAddress(ipAddress: host, port: port))
    }

    struct Place: Sendable {
        var host: String
        var listens = true
        var isForIPv6Alone = false
        var ipv4: Bool
        var ipv6: Bool
    }

    /// Where nobody is to be heard the port is held too, so that no other test's server listens there.
    private static func listener(at place: Place) throws -> (listener: Listener, held: [Listener]) {
        let unheard = [("127.0.0.1", place.ipv4), ("::1", place.ipv6)].filter { !$0.1 && place.listens }
        var triesLeft = 100
        while true {
            let listener = try Listener(place.host, listens: place.listens, isForIPv6Alone: place.isForIPv6Alone)
            do {
                return (listener, try unheard.map { try Listener($0.0, port: listener.port, listens: false) })
            } catch  where triesLeft > 0 {
                triesLeft -= 1
            }
        }
    }

    /// Who hears a connection to 127.0.0.1, and to ::1.
    @Test(arguments: [
        Place(host: "127.0.0.1", ipv4: true, ipv6: false), Place(host: "0.0.0.0", ipv4: true, ipv6: false),
        Place(host: "127.0.0.2", ipv4: false, ipv6: false), Place(host: "::1", ipv4: false, ipv6: true),
        Place(host: "::", ipv4: true, ipv6: true), Place(host: "::ffff:127.0.0.1", ipv4: true, ipv6: false),
        Place(host: "::", isForIPv6Alone: true, ipv4: false, ipv6: true),
        Place(host: "127.0.0.1", listens: false, ipv4: false, ipv6: false),
        Place(host: "::", listens: false, ipv4: false, ipv6: false),
    ])
    func whatListens(_ place: Place) throws {
        let (listener, held) = try Self.listener(at: place)
        defer { withExtendedLifetime(held) {} }
        #expect(try Self.has("127.0.0.1", listener.port) == place.ipv4)
        #expect(try Self.has("::ffff:127.0.0.1", listener.port) == place.ipv4)
        #expect(try Self.has("::1", listener.port) == place.ipv6)
    }

    @Test func aPortIsFreeOnceItsListenerHasGone() throws {
        var listener: Listener? = try Listener("127.0.0.1")
        let port = try #require(listener?.port)
        #expect(try Self.has("127.0.0.1", port) == true)
        listener = nil
        #expect(try Self.has("127.0.0.1", port) == false)
    }

    @Test func ofOtherMachinesNothingIsKnown() throws {
        #expect(try Self.has("192.0.2.1", 80) == nil)
        #expect(try Self.has("2001:db8::1", 80) == nil)
        #expect(try LocalListeners().has(SocketAddress(unixDomainSocketPath: "/run/x")) == nil)
    }
}
#endif
