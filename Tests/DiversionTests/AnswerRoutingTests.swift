#if os(Linux)
import CNetlink
import Libc
import NIOCore
import Testing

@testable import Diversion

struct AnswerRoutingTests {
    private static let mark = RedirectRules.answerMark
    private static let table: UInt32 = 0x6B6C_0123

    // MARK: As ip says it

    @Test func theRuleIsWhatIPMakesOfIt() {
        Self.expect(.addRule(AF_INET, mark: Self.mark, table: Self.table), RecordedMessages.addRule4)
        Self.expect(.addRule(AF_INET6, mark: Self.mark, table: Self.table), RecordedMessages.addRule6)
        Self.expect(.deleteRule(AF_INET, mark: Self.mark, table: Self.table), RecordedMessages.deleteRule4)
        Self.expect(.deleteRule(AF_INET6, mark: Self.mark, table: Self.table), RecordedMessages.deleteRule6)
    }

    @Test func theRouteIsWhatIPMakesOfIt() {
        Self.expect(.addRoute(AF_INET, table: Self.table), RecordedMessages.addRoute4)
        Self.expect(.addRoute(AF_INET6, table: Self.table), RecordedMessages.addRoute6)
        Self.expect(.deleteRoute(AF_INET, table: Self.table), RecordedMessages.deleteRoute4)
        Self.expect(.deleteRoute(AF_INET6, table: Self.table), RecordedMessages.deleteRoute6)
    }

    private static func expect(
        _ message: RouteMessage,
        _ recorded: [(type: UInt32, flags: UInt16, attributes: String)],
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(recorded.count == 1, sourceLocation: sourceLocation)
        guard let other = recorded.first else { return }
        let bytes = message.bytes(number: 9)
        #expect(UInt32(message.type) == other.type, sourceLocation: sourceLocation)
        #expect(UInt16(NLM_F_REQUEST | NLM_F_ACK | message.flags) == other.flags, sourceLocation: sourceLocation)
        let body = bytes.dropFirst(MemoryLayout<nlmsghdr>.size)
        let text = body.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        // The length of the last attribute leaves out what aligns it.
        #expect(text == other.attributes, sourceLocation: sourceLocation)
        bytes.withUnsafeBytes { bytes in
            _ = NetlinkMessages.walk(bytes) { header, content in
                #expect(header.nlmsg_seq == 9 && content.count == body.count, sourceLocation: sourceLocation)
                return nil
            }
        }
    }

    // MARK: Rules that others have

    @Test func aRuleIsRead() throws {
        let message = RouteMessage.addRule(AF_INET6, mark: Self.mark, table: Self.table)
        let rule = try #require(message.body.withUnsafeBytes { RouteRule($0) })
        var expected = RouteRule()
        (expected.mark, expected.mask, expected.table, expected.origin) = (Self.mark, .max, Self.table, 107)
        #expect(rule == expected)
        #expect(rule.isFor(Self.mark))
        #expect(!rule.isFor(Self.mark + 1))
        // Cut anywhere, it is read as far as it goes.
        for count in 0..<message.body.count {
            let rule = message.body.prefix(count).withUnsafeBytes { RouteRule($0) }
            #expect((rule == nil) == (count < 12))
        }
    }

    @Test func aRuleForSomeBitsIsNotForTheMark() {
        var rule = RouteRule()
        #expect(!rule.isFor(Self.mark))
        (rule.mark, rule.mask) = (8, 8)
        #expect(!rule.isFor(Self.mark))
        (rule.mark, rule.mask) = (Self.mark, nil)
        #expect(rule.isFor(Self.mark))
    }

    @Test func aTableOfRoutesBelongsToATableOfRules() {
        #expect(AnswerRouting.table(of: "kl_0123456789abcdef") == Self.table)
        for name in ["kl_", "kl_xyz0", "other", "kl_012", "0123"] { #expect(AnswerRouting.table(of: name) == nil) }
    }

    // MARK: Clients

    @Test(arguments: [
        ("10.0.0.2", "10.0.0.1", "10.0.0.2"), ("::ffff:10.0.0.2", "10.0.0.1", "10.0.0.2"),
        ("fd00::2", "fd00::1", "fd00::2"), ("127.0.0.9", "127.0.0.1", "127.0.0.9"), ("::1", "::1", "::1"),
        // The kernel would send no answer.
        ("10.0.0.2", "127.0.0.1", nil), ("fd00::2", "::1", nil),
        ("fe80::2", "fe80::1", nil), ("10.0.0.2", "fd00::1", nil), ("0.0.0.0", "10.0.0.1", nil),
    ])
    func aClientsAddressIsUsedWhereItCanBeAnswered(client: String, called: String, expected: String?) throws {
        let usable = AnswerRouting.usable(
            try SocketAddress(ipAddress: client, port: 40_000),
            calling: try SocketAddress(ipAddress: called, port: 80)
        )
        #expect(usable?.address.ipAddress == expected)
        if let usable { #expect(usable.family == (called.contains(":") ? AF_INET6 : AF_INET)) }
    }
}
#endif
