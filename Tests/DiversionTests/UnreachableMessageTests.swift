#if os(Linux)
import NIOCore
import Testing

@testable import Diversion

/// The bytes were made by another program, from RFC 791, 792, 8200 and 4443.
struct UnreachableMessageTests {
    private static func message(_ client: String, _ called: String) throws -> UnreachableMessage? {
        UnreachableMessage(
            client: try SocketAddress(ipAddress: client, port: 4_000),
            called: try SocketAddress(ipAddress: called, port: 5_353),
            size: 5
        )
    }

    private static func hex(_ bytes: [UInt8]?) -> String {
        (bytes ?? []).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    @Test func isAsTheRFCsHaveIt() throws {
        let ipv4 =
            "45000038000000004001f6bac0000201c00002090303d86600000000" + "45000021000000004011f6c1c0000209c0000201"
            + "0fa014e9000d0000"
        #expect(Self.hex(try Self.message("192.0.2.9", "192.0.2.1")?.bytes) == ipv4)
        // A client of an IPv6 socket.
        #expect(Self.hex(try Self.message("::ffff:192.0.2.9", "::ffff:192.0.2.1")?.bytes) == ipv4)
        let ipv6 =
            "6000000000383a4020010db800000000000000000000000120010db8000000000000000000000009" + "0104b1ad00000000"
            + "6000000000" + "0d114020010db800000000000000000000000920010db8000000000000000000000001"
            + "0fa014e9000d0000"
        #expect(Self.hex(try Self.message("2001:db8::9", "2001:db8::1")?.bytes) == ipv6)
    }

    @Test func thereIsNoneOfTwoFamiliesOrWithoutAPort() throws {
        #expect(try Self.message("192.0.2.9", "2001:db8::1") == nil)
        let place = try SocketAddress(ipAddress: "192.0.2.1", port: 53)
        let nowhere = try SocketAddress(ipAddress: "192.0.2.1", port: 0)
        #expect(UnreachableMessage(client: nowhere, called: place, size: 0) == nil)
        #expect(UnreachableMessage(client: place, called: nowhere, size: 0) == nil)
        let socket = try SocketAddress(unixDomainSocketPath: "/x")
        #expect(UnreachableMessage(client: place, called: socket, size: 0) == nil)
    }

    @Test func lengthsThatNoPacketHasAreCut() throws {
        let place = try SocketAddress(ipAddress: "192.0.2.1", port: 53)
        let message = UnreachableMessage(client: place, called: place, size: .max - 1_000)
        #expect(message?.bytes.count == 56)
    }
}
#endif
