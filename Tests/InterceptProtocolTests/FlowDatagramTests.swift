import NIOCore
import Testing

@testable import InterceptProtocol

@Suite struct FlowDatagramTests {
    private static let header = ConnectionHeader(
        transport: .udp,
        servicePort: 53,
        client: ClientAddress(ipv4: 0xC000_0209, port: 4_000)
    )

    static let datagrams: [FlowDatagram] =
        [
            .payload(flow: 0, ByteBuffer()), .payload(flow: 63, ByteBuffer(string: "hello")),
            .payload(flow: 64, ByteBuffer(repeating: 7, count: 65_507)),
            .payload(flow: FlowDatagram.greatestFlow, ByteBuffer()),
            .opening(flow: 16_384, header, ByteBuffer()),
            .opening(flow: 1 << 30, header, ByteBuffer(string: "question")),
            .opening(
                flow: 9,
                ConnectionHeader(transport: .udp, servicePort: 1, client: ClientAddress(ipv6High: 1, low: 2, port: 3)),
                ByteBuffer(string: "x")
            ),
        ] + FlowNotice.allCases.map { .notice(flow: 5, $0) }

    @Test(arguments: datagrams) func isReadAsItWasWritten(_ datagram: FlowDatagram) {
        #expect(FlowDatagram.parse(datagram.encoded) == .datagram(datagram))
    }

    @Test func theBytesAreThoseOfTheProtocol() {
        let opening = FlowDatagram.opening(flow: 300, Self.header, ByteBuffer(string: "?")).encoded
        #expect(
            Array(opening.readableBytesView) == [0x41, 0x2C, 1, 1, 17, 0, 53, 4, 192, 0, 2, 9, 0x0F, 0xA0, 0x3F]
        )
        #expect(Array(FlowDatagram.notice(flow: 1, .refused).encoded.readableBytesView) == [1, 2, 1])
    }

    @Test(
        arguments: [
            [], [0x40], [0xC0, 0, 0], [5], [5, 3], [5, 255, 0], [5, 2], [5, 2, 6], [5, 2, 255], [5, 2, 0, 0],
            [5, 1], [5, 1, 1], [5, 1, 1, 17, 0, 53], [5, 1, 1, 17, 0, 53, 4, 192, 0, 2, 9, 15],
            [5, 1, 1, 17, 0, 53, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 15],
        ] as [[UInt8]]
    )
    func whatIsTooShortOrOfAnotherKindIsNone(_ bytes: [UInt8]) {
        #expect(FlowDatagram.parse(ByteBuffer(bytes: bytes)) == .malformed)
    }

    /// Version, transport and family: TCP's is none of these.
    @Test(
        arguments: [
            [5, 1, 2], [5, 1, 1, 18], [5, 1, 1, 17, 0, 53, 9], [5, 1, 1, 6, 0, 53, 4, 192, 0, 2, 9, 15, 160, 63],
        ] as [[UInt8]]
    )
    func aHeaderThatIsNotKnownIsTold(_ bytes: [UInt8]) {
        #expect(FlowDatagram.parse(ByteBuffer(bytes: bytes)) == .unsupported(flow: 5))
    }

    @Test func anyBytesAreReadWithoutATrap() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<100_000 {
            let count = Int.random(in: 0...40, using: &generator)
            let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
            _ = FlowDatagram.parse(ByteBuffer(bytes: bytes))
        }
    }

    @Test func aNumberThatIsTooGreatWritesNothing() {
        #expect(FlowDatagram.payload(flow: .max, ByteBuffer(string: "x")).encoded.readableBytes == 0)
    }

    @Test func refusalsGoToTheOriginal() {
        #expect(FlowNotice.allCases.filter(\.isRefusal) == [.refused, .unmapped, .timedOut, .other])
    }
}

@Suite struct FlowTableTests {
    private static func at(_ seconds: Int64) -> NIODeadline { .uptimeNanoseconds(0) + .seconds(seconds) }

    @Test func theLongestIdleGoesFirst() {
        var table = FlowTable<Int, String>(atMost: 3, times: .same(.seconds(60)))
        for key in 1...3 { #expect(table.insert("\(key)", for: key, at: Self.at(Int64(key))) == nil) }
        #expect(table.use(1, at: Self.at(4)) == "1")
        #expect(table.insert("4", for: 4, at: Self.at(5)) == "2")
        #expect(table.use(2, at: Self.at(6)) == nil)
        #expect(table.peek(3) == "3")
        #expect(table.insert("5", for: 5, at: Self.at(7)) == "3")
        #expect(table.count == 3)
        #expect(Set(table.flows) == ["1", "4", "5"])
    }

    /// A flood of clients whom nobody answers pushes out itself.
    @Test func thoseThatWereAnsweredStay() {
        var table = FlowTable<Int, Int>(atMost: 10, times: .same(.seconds(60)))
        for key in 0..<5 {
            table.insert(key, for: key, at: Self.at(0))
            #expect(table.use(key, isAnswer: true, at: Self.at(1)) == key)
        }
        for key in 100..<2_100 { table.insert(key, for: key, at: Self.at(2)) }
        #expect(table.count == 10)
        for key in 0..<5 { #expect(table.peek(key) == key) }
        #expect(table.nextExpiry == Self.at(61))
        #expect(table.expire(at: Self.at(61)) == [0, 1, 2, 3, 4])
        // With none that weren't answered, the longest idle of the others goes.
        for key in 0..<10 {
            table.insert(key, for: key, at: Self.at(70))
            _ = table.use(key, isAnswer: true, at: Self.at(70 + Int64(key)))
        }
        #expect(table.insert(10, for: 10, at: Self.at(80)) == 0)
    }

    /// Each question from a port of its own, as resolvers ask: whom nobody has answered yet is waited for.
    @Test func whoHasJustAskedStaysThoughAllOthersWereAnswered() {
        var table = FlowTable<Int, Int>(atMost: 10, times: .same(.seconds(60)))
        var waiting: [Int] = []
        for key in 0..<1_000 {
            let now = NIODeadline.uptimeNanoseconds(0) + .milliseconds(Int64(key) * 10)
            table.insert(key, for: key, at: now)
            waiting.append(key)
            guard waiting.count > 4 else { continue }
            let answered = waiting.removeFirst()
            #expect(table.use(answered, isAnswer: true, at: now) == answered)
        }
        // One that nobody answers for two seconds makes room before those that were.
        #expect(table.insert(1_000, for: 1_000, at: .uptimeNanoseconds(0) + .milliseconds(12_000)) == waiting.first)
    }

    @Test func endsAfterItsTime() {
        var table = FlowTable<Int, Int>(atMost: 10, times: .same(.seconds(60)))
        for key in 0..<5 { table.insert(key, for: key, at: Self.at(Int64(key))) }
        #expect(table.nextExpiry == Self.at(60))
        #expect(table.use(0, at: Self.at(30)) == 0)
        #expect(table.nextExpiry == Self.at(61))
        #expect(table.expire(at: Self.at(60)) == [])
        #expect(table.expire(at: Self.at(62)) == [1, 2])
        #expect(table.remove(3) == 3)
        #expect(table.remove(3) == nil)
        #expect(table.expire(at: Self.at(90)) == [4, 0])
        #expect(table.nextExpiry == nil && table.count == 0)
    }

    @Test func ofOneKeyThereIsOne() {
        var table = FlowTable<Int, String>(atMost: 2, times: .same(.seconds(60)))
        table.insert("a", for: 1, at: Self.at(0))
        #expect(table.insert("b", for: 1, at: Self.at(1)) == "a")
        #expect(table.count == 1 && table.peek(1) == "b")
        #expect(table.removeAll() == ["b"])
        #expect(table.count == 0 && table.nextExpiry == nil)
    }

    /// As a flood of clients, or of numbers, would have it: nothing grows.
    @Test func aMillionOfThemKeepAsManyAsThereMayBe() {
        var table = FlowTable<UInt64, UInt64>(atMost: FlowLimits.flows, times: .same(.seconds(60)))
        var gone: UInt64 = 0
        for number in 0..<1_000_000 as Range<UInt64> {
            if let oldest = table.insert(number, for: number, at: Self.at(0)) {
                #expect(oldest == gone)
                gone += 1
            }
        }
        #expect(table.count == FlowLimits.flows)
        #expect(gone == 1_000_000 - UInt64(FlowLimits.flows))
        #expect(table.flows.count == FlowLimits.flows)
        #expect(table.expire(at: Self.at(60)).count == FlowLimits.flows)
    }

    /// Against a plain list, by the same steps.
    @Test func isWhatAListWouldBe() {
        var table = FlowTable<Int, Int>(atMost: 8, times: .same(.seconds(20)))
        var list: [(key: Int, at: Int64)] = []
        var state: UInt64 = 42
        for step in 0..<20_000 as Range<Int64> {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let key = Int(state >> 33) % 16
            switch Int(state >> 40) % 4 {
            case 0:
                list.removeAll { $0.key == key }
                if list.count == 8 { list.removeFirst() }
                list.append((key, step))
                table.insert(key, for: key, at: Self.at(step))
            case 1:
                list.removeAll { $0.key == key }
                table.remove(key)
            case 2:
                let known = list.contains { $0.key == key }
                #expect((table.use(key, at: Self.at(step)) != nil) == known)
                guard known else { continue }
                list.removeAll { $0.key == key }
                list.append((key, step))
            default:
                let gone = list.prefix { $0.at + 20 <= step }.map(\.key)
                list.removeFirst(gone.count)
                #expect(table.expire(at: Self.at(step)) == gone)
            }
            #expect(table.count == list.count)
            #expect(table.nextExpiry == list.first.map { Self.at($0.at + 20) })
        }
    }
}

@Suite struct FlowBudgetTests {
    @Test func asManyAsAreKeptAtOnceThenSoManyASecond() {
        var budget = FlowBudget()
        func allowed(of count: Int, at milliseconds: Int64) -> Int {
            let now = NIODeadline.uptimeNanoseconds(1_000_000_000) + .milliseconds(milliseconds)
            return (0..<count).count { _ in budget.allows(at: now) }
        }
        #expect(allowed(of: 10_000, at: 0) == FlowLimits.flows)
        #expect(allowed(of: 10_000, at: 100) == FlowLimits.newPerSecond / 10)
        // Nothing is lost to rounding.
        #expect((101...1_100).reduce(0) { $0 + allowed(of: 10, at: Int64($1)) } == FlowLimits.newPerSecond)
        #expect(allowed(of: 10_000, at: 3_600_000) == FlowLimits.flows)
        // A clock that stands, or goes back, gives nothing.
        #expect(allowed(of: 10, at: 0) == 0)
    }
}

@Suite struct LengthPrefixedPayloadsTests {
    @Test func comeOutWhole() {
        var stream = ByteBuffer()
        let payloads = [0, 1, 2, 1_000, 65_535].map { ByteBuffer(repeating: 7, count: $0) }
        for payload in payloads { stream.writeImmutableBuffer(LengthPrefixedPayloads.frame(payload) ?? ByteBuffer()) }
        #expect(LengthPrefixedPayloads.frame(ByteBuffer(repeating: 0, count: 65_536)) == nil)
        for piece in [1, 3, 10_000, 1 << 20] {
            var rest = stream
            var input = LengthPrefixedPayloads()
            var found: [ByteBuffer] = []
            while rest.readableBytes > 0 {
                let wanted = min(input.wanted, piece, rest.readableBytes)
                #expect(wanted > 0)
                input.append(rest.readSlice(length: wanted) ?? ByteBuffer())
                while let payload = input.next() { found.append(payload) }
            }
            #expect(found == payloads)
        }
    }
}
