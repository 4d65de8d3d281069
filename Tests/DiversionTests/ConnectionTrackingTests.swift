#if os(Linux)
import Testing

@testable import Diversion

struct ConnectionTrackingTests {
    typealias Tuple = ConnectionTracking.Tuple

    private static let client: [UInt8] = [192, 0, 2, 9]
    private static let service: [UInt8] = [192, 0, 2, 1]
    private static let elsewhere: [UInt8] = [198, 51, 100, 7]

    private static func tuple(_ source: [UInt8], _ sourcePort: UInt16, _ destination: [UInt8], _ port: UInt16) -> Tuple
    {
        Tuple(source: source, destination: destination, sourcePort: sourcePort, destinationPort: port)
    }

    /// From the client's port 4,000, answered from there.
    private static func flow(
        _ port: UInt16,
        answeredBy address: [UInt8] = Self.service,
        _ answering: UInt16
    )
        -> ConnectionTracking.Entry
    {
        .init(
            original: Self.tuple(Self.client, 4_000, Self.service, port),
            reply: Self.tuple(address, answering, Self.client, 4_000)
        )
    }

    private static func stale(diverted: Set<UInt16>) -> StaleFlows {
        StaleFlows(ports: [53], diverted: diverted, listeners: [53: 40_003], own: LocalAddresses([Self.service]))
    }

    @Test func atTheStartThoseOfTheOriginalGo() {
        let stale = Self.stale(diverted: [53])
        #expect(stale.contains(Self.flow(53, 53)))
        // Of a sidecar that was killed.
        #expect(stale.contains(Self.flow(53, 41_111)))
        #expect(!stale.contains(Self.flow(53, 40_003)), "it is where it should be")
        #expect(!stale.contains(Self.flow(54, 54)), "another port")
        #expect(!stale.contains(Self.flow(53, answeredBy: Self.elsewhere, 53)), "others' rules lead it away")
    }

    @Test func anAnswerThatCameAfterItsFlowWasForgottenGoesToo() {
        let answer = ConnectionTracking.Entry(
            original: Self.tuple(Self.service, 53, Self.client, 4_000),
            reply: Self.tuple(Self.client, 4_000, Self.service, 53)
        )
        #expect(Self.stale(diverted: [53]).contains(answer))
        #expect(!Self.stale(diverted: []).contains(answer))
    }

    @Test func atTheStopThoseOfTheSidecarGo() {
        let stale = Self.stale(diverted: [])
        #expect(stale.contains(Self.flow(53, 40_003)))
        #expect(!stale.contains(Self.flow(53, 53)))
    }

    @Test func theSidecarsOwnToTheOriginalStay() {
        var flow = Self.flow(53, 53)
        flow.isInOwnZone = true
        #expect(!Self.stale(diverted: [53]).contains(flow))
        #expect(!Self.stale(diverted: []).contains(flow))
    }

    /// This machine's own questions to servers elsewhere, and what it forwards.
    @Test func whatIsNotForThisNamespaceIsLeftAlone() {
        for diverted in [[53], []] as [Set<UInt16>] {
            let entry = ConnectionTracking.Entry(
                original: Self.tuple(Self.client, 4_000, Self.elsewhere, 53),
                reply: Self.tuple(Self.elsewhere, 53, Self.client, 4_000)
            )
            #expect(!Self.stale(diverted: diverted).contains(entry))
        }
    }

    @Test func theWholeLoopbackIsOwn() {
        let own = LocalAddresses([])
        #expect(own.contains([127, 3, 2, 1]) && !own.contains([128, 0, 0, 1]) && !own.contains([]))
    }

    // MARK: Messages

    private static func attribute(_ type: UInt16, _ body: [UInt8], length: UInt16? = nil) -> [UInt8] {
        let length = length ?? UInt16(4 + body.count)
        let bytes = withUnsafeBytes(of: length) { Array($0) } + withUnsafeBytes(of: type) { Array($0) } + body
        return bytes + Array(repeating: 0, count: -bytes.count & 3)
    }

    private static func nested(_ type: UInt16, _ parts: [UInt8]...) -> [UInt8] {
        Self.attribute(type | 0x8000, parts.flatMap(\.self))
    }

    private static func tupleBytes(_ type: UInt16, _ tuple: Tuple, protocol number: UInt8 = 17) -> [UInt8] {
        func port(_ port: UInt16) -> [UInt8] { [UInt8(port >> 8), UInt8(port & 255)] }
        return Self.nested(
            type,
            Self.nested(1, Self.attribute(1, tuple.source), Self.attribute(2, tuple.destination)),
            Self.nested(
                2,
                Self.attribute(1, [number]),
                Self.attribute(2, port(tuple.sourcePort)),
                Self.attribute(3, port(tuple.destinationPort))
            )
        )
    }

    private static func entry(_ content: [UInt8]) -> ConnectionTracking.Entry? {
        ([2, 0, 0, 0] + content).withUnsafeBytes { ConntrackMessage.entry($0) }
    }

    @Test func anEntryIsReadWithItsName() throws {
        let flow = Self.flow(53, 40_003)
        let name = Self.tupleBytes(1, flow.original)
        let found = try #require(Self.entry(Self.attribute(7, [0, 0, 0, 30]) + name + Self.tupleBytes(2, flow.reply)))
        #expect(found.original == flow.original && found.reply == flow.reply)
        #expect(found.name == name)
    }

    @Test func whatIsNotUDPsOrNotWholeIsNone() {
        let flow = Self.flow(53, 53)
        let whole = Self.tupleBytes(1, flow.original) + Self.tupleBytes(2, flow.reply)
        #expect(
            Self.entry(Self.tupleBytes(1, flow.original, protocol: 6) + Self.tupleBytes(2, flow.reply, protocol: 6))
                == nil
        )
        #expect(Self.entry(Self.tupleBytes(1, flow.original)) == nil)
        #expect(Self.entry([]) == nil)
        for count in 0..<whole.count {
            #expect(Self.entry(Array(whole.prefix(count))) == nil || count > whole.count - 4)
        }
        // Lengths that can't be.
        for length in [0, 3, 200, .max] as [UInt16] {
            #expect(Self.entry(Self.attribute(1 | 0x8000, [], length: length) + whole) == nil)
        }
    }

    /// Types and values by number, as linux/netfilter/nfnetlink_conntrack.h has them.
    @Test func aFlowThatIsToBeKeptIsWrittenWithItsTranslation() {
        let flow = Self.flow(53, 40_003)
        let turned = Self.tuple(Self.service, 53, Self.client, 4_000)
        let listener = Self.elsewhere
        let expected =
            Self.tupleBytes(1, flow.original) + Self.tupleBytes(2, turned) + Self.attribute(3, [0, 0, 0, 14])
            + Self.attribute(7, [0, 0, 0, 120])
            + Self.nested(
                13,
                Self.attribute(1, listener),
                Self.attribute(2, listener),
                Self.nested(3, Self.attribute(1, [0x9C, 0x43]), Self.attribute(2, [0x9C, 0x43]))
            )
        #expect(ConntrackMessage.translated(flow.original, to: listener, 40_003, seconds: 120) == expected)
    }

    /// Types and values as above: the zone, 8300, belongs to the direction of the first packet.
    @Test func anOwnFlowsTimeIsWrittenWithItsZone() throws {
        let flow = Self.flow(53, 53)
        var name = Self.tupleBytes(1, flow.original) + Self.attribute(3, [0x20, 0x6C])
        name[0] += 8
        let written = ConntrackMessage.timed(flow.original, inZone: 8_300, seconds: 125)
        #expect(written == name + Self.attribute(7, [0, 0, 0, 125]))
        let found = try #require(Self.entry(written + Self.tupleBytes(2, flow.reply)))
        #expect(found.isInOwnZone && found.original == flow.original)
    }

    @Test func aQuestionIsReadAsItWasWritten() {
        for reply in [
            Self.flow(53, 40_003).reply,
            Tuple(
                source: Array(repeating: 1, count: 16),
                destination: Array(0..<16),
                sourcePort: 1,
                destinationPort: 65_535
            ),
        ] {
            let isIPv6 = reply.source.count == 16
            let bytes = ConntrackMessage.replyAttribute(reply)
            let found = Self.entry(bytes + Self.tupleBytes(1, Self.flow(53, 53).original))
            #expect(found?.reply == reply)
            #expect(bytes.count == (isIPv6 ? 76 : 52))
        }
    }
}
#endif
