import InterceptModel
import InterceptProtocol
import NIOCore
import NIOEmbedded
import Noise
import Testing

@testable import Carriers
@testable import SidecarAgent
@testable import Tunnel

/// A client's pipeline with a tap, and both ends of the mirror's tunnel. The test itself is the workspace.
@Suite struct MirrorCopyTests {
    @Test func aCopyIsWhatTheClientSaysInOrder() throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.say("one, ")
        try client.say("two, ")
        stage.settle()
        try client.say("three")
        client.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        stage.settle()
        #expect(stage.heard == ["one, two, three"] && stage.ends == [.end])
        #expect(client.passed.text == "one, two, three" && client.passed.inputIsClosed)
        #expect(stage.copies.count == 1 && stage.copies.bytes == 15)
        stage.onStream(0) {
            $0.write(ByteBuffer(bytes: [0]), to: $1)
            $0.finish($1)
        }
        stage.settle()
        #expect(stage.isClean)
    }

    // MARK: Probes

    private static let request = "GET / HTTP/1.1\r\nUser-Agent: "

    /// What the client says goes on at once.
    @Test func aCopyWaitsUntilTheClientIsKnownToBeNoProbe() throws {
        let stage = try Stage()
        let client = try stage.client(copies: 1, undecided: 1)
        try client.say(Self.request)
        #expect(client.passed.text == Self.request && stage.copies.count == 1)
        try client.say("curl/8\r\n")
        #expect(stage.copies.count == 2)
        try client.say("\r\n")
        client.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        stage.settle()
        let whole = Self.request + "curl/8\r\n\r\n"
        #expect(stage.heard == [whole, whole] && stage.ends == [.end, .end] && client.passed.text == whole)
    }

    @Test func aProbeIsNotCopied() throws {
        let stage = try Stage()
        let client = try stage.client(copies: 1, undecided: 1)
        try client.say(Self.request)
        try client.say("kube-probe/1.30\r\n\r\n")
        client.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        let silent = try stage.client(copies: 0, undecided: 1)
        silent.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        stage.settle()
        #expect(stage.heard == [Self.request + "kube-probe/1.30\r\n\r\n"] && client.passed.text == stage.heard[0])
        #expect(stage.copies.count == 1 && silent.passed.inputIsClosed)
    }

    /// Such as of a database, whose server speaks first.
    @Test func aClientThatSaysNothingForAWhileIsCopied() throws {
        let stage = try Stage()
        let client = try stage.client(copies: 0, undecided: 2)
        stage.loop.advanceTime(by: ProbeDetector.patience - .milliseconds(1))
        #expect(stage.copies.count == 0)
        stage.loop.advanceTime(by: .milliseconds(1))
        #expect(stage.copies.count == 2)
        try client.say("hello")
        stage.settle()
        #expect(stage.heard == ["hello", "hello"])
    }

    @Test func whatIsSaidBeforeTheClientBreaksOffIsCopied() throws {
        let stage = try Stage()
        let client = try stage.client(copies: 0, undecided: 1)
        try client.say("GET")
        client.channel.pipeline.fireChannelInactive()
        stage.settle()
        #expect(stage.heard == ["GET"] && stage.ends == [.reset(.tcpReset)] && stage.isClean)
        let silent = try stage.client(copies: 0, undecided: 1)
        silent.channel.pipeline.fireChannelInactive()
        stage.settle()
        stage.loop.advanceTime(by: .seconds(1))
        #expect(stage.heard == ["GET"] && stage.isClean)
    }

    @Test func severalCopiesShareOneBuffer() throws {
        let stage = try Stage()
        let client = try stage.client(copies: 3)
        let bytes = ByteBuffer(repeating: 7, count: 32 * 1_024)
        try client.channel.writeInbound(bytes)
        // Each counts what it keeps alive.
        #expect(stage.copies.pending >= 3 * bytes.storageCapacity)
        stage.settle()
        #expect(stage.heardBytes.values.allSatisfy { $0 == bytes })
        #expect(stage.heardBytes.count == 3)
    }

    @Test(arguments: [Break.reset, .closed, .inactive])
    fileprivate func whateverBreaksTheClientOffResetsItsCopyBehindItsBytes(_ how: Break) throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.say("half of")
        switch how {
        case .reset: client.channel.pipeline.fireErrorCaught(IOError(errnoCode: 104, reason: "read"))
        case .closed: client.channel.close(promise: nil)
        case .inactive: client.channel.pipeline.fireChannelInactive()
        }
        stage.settle()
        #expect(stage.heard == ["half of"] && stage.ends == [.reset(.tcpReset)])
        #expect(stage.isClean)
    }

    /// NIO reports that end by `channelInactive` alone.
    @Test func aClientThatEndsAfterTheServerEndsItsCopy() throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.say("bye")
        client.channel.close(mode: .output, promise: nil)
        client.channel.pipeline.fireChannelInactive()
        stage.settle()
        #expect(stage.heard == ["bye"] && stage.ends == [.end])
    }

    @Test func aCopyThatFallsBehindIsResetAndHasNoHole() throws {
        let stage = try Stage()
        let client = try stage.client()
        let piece = ByteBuffer(repeating: 7, count: 32 * 1_024)
        for _ in 0..<31 {
            try client.channel.writeInbound(piece)
            stage.loop.advanceTime(by: .milliseconds(1))
        }
        #expect(stage.copies.behind == 0)
        try client.channel.writeInbound(ByteBuffer(repeating: 7, count: 32 * 1_024))
        #expect(stage.copies.behind == 1)
        // The client notices nothing.
        try client.say("on")
        client.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        #expect(client.passed.count == 32 * 32 * 1_024 + 2)
        stage.settle()
        #expect(stage.ends == [.reset(.timedOut)] && stage.copies.behind == 1)
        #expect(stage.isClean)
    }

    /// Acknowledged bytes don't count.
    @Test func aCopyThatFollowsMayBeLong() throws {
        let stage = try Stage()
        let client = try stage.client()
        for _ in 0..<100 {
            try client.channel.writeInbound(ByteBuffer(repeating: 7, count: 64 * 1_024))
            stage.settle()
        }
        #expect(stage.copies.behind == 0)
        #expect(stage.heardBytes.values.first?.readableBytes == 100 * 64 * 1_024)
    }

    @Test func allCopiesTogetherAreBounded() throws {
        let stage = try Stage()
        let clients = try (0..<20).map { _ in try stage.client() }
        for client in clients {
            for _ in 0..<15 { try client.channel.writeInbound(ByteBuffer(repeating: 7, count: 64 * 1_024)) }
        }
        // Half of all: as much is left for others.
        #expect(stage.memory.used <= MirrorLimits.all / 2 && stage.memory.used > MirrorLimits.all / 4)
        #expect(stage.copies.behind > 0 && stage.copies.behind < 20)
        for client in clients { client.channel.pipeline.fireErrorCaught(ChannelError.eof) }
        stage.settle()
        #expect(stage.isClean)
    }

    /// A workspace that grants any number of streams, acknowledges everything, and never ends its own direction.
    @Test func streamsThatTheWorkspaceNeverEndsAreBounded() throws {
        let stage = try Stage(streams: 1 << 40)
        for count in 0..<20 {
            for _ in 0..<1_000 {
                let client = try stage.client()
                try client.say("x")
                client.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
            }
            stage.settle()
            if count == 0 { #expect(stage.copies.behind == 0) }
        }
        #expect(stage.copies.behind > 10_000)
        #expect(stage.withConnection { $0.openStreamCount } ?? 0 <= MirrorLimits.all / 2 / MirrorLimits.stream)
    }

    @Test(arguments: [1, 2, 3, 4, 5, 255] as [UInt8])
    func aRefusedCopyIsDroppedQuietly(_ answer: UInt8) throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.say("question")
        stage.settle()
        stage.onStream(0) {
            $0.write(ByteBuffer(bytes: [answer]), to: $1)
            $0.finish($1)
        }
        stage.settle()
        try client.say("more")
        stage.settle()
        #expect(stage.heard == ["question"] && stage.copies.behind == 0)
        #expect(stage.isClean)
        #expect(client.passed.text == "questionmore")
    }

    @Test func whatAWorkspaceSaysIsThrownAwayAndCredited() throws {
        let stage = try Stage()
        let client = try stage.client()
        for _ in 0..<100 {
            stage.settle()
            stage.onStream(0) { $0.write(ByteBuffer(repeating: 0, count: 64 * 1_024), to: $1) }
        }
        stage.settle()
        #expect(stage.withConnection { $0.memoryInUse } == 0)
        try client.say("on")
        stage.settle()
        #expect(stage.heard == ["on"])
        stage.onStream(0) { $0.reset($1, .tcpReset) }
        stage.settle()
        #expect(stage.isClean && stage.copies.behind == 0)
    }

    @Test func withoutAStreamACopyIsBehindAtOnce() throws {
        let stage = try Stage(streams: 2)
        let clients = try (0..<3).map { _ in try stage.client() }
        for client in clients { try client.say("x") }
        stage.settle()
        #expect(stage.copies.behind == 1 && stage.copies.count == 2)
        #expect(stage.heard == ["x", "x"])
    }

    /// Others' bytes go first, and a copy's come once they are sent.
    @Test func nothingIsWrittenWhileSomethingWaits() throws {
        let stage = try Stage()
        let other = stage.withConnection { $0.openStream() } ?? nil
        let stream = try #require(other)
        _ = stage.withConnection { $0.write(ByteBuffer(repeating: 1, count: 1_000), to: stream) }
        let client = try stage.client()
        try client.say("late")
        stage.loop.advanceTime(by: .milliseconds(100))
        #expect(stage.withConnection { $0.unacknowledgedBytes } == 1_000)
        stage.settle()
        #expect(stage.heardBytes.values.contains(ByteBuffer(string: "late")))
    }

    @Test func theWorkspacesEndLeavesNothing() throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.say("unsent")
        stage.copies.close()
        #expect(stage.copies.count == 0 && stage.memory.used == 0)
        try client.say("more")
        client.channel.pipeline.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
        #expect(client.passed.text == "unsentmore")
    }

    /// A small read must not keep alive the buffer that it was read into, nor a long queue of them cost a buffer each.
    @Test func smallReadsAreGathered() {
        var pending = PendingBytes()
        var expected = ByteBuffer()
        for count in 0..<1_000 {
            var read = ByteBuffer()
            read.reserveCapacity(64 * 1_024)
            read.writeString("\(count),")
            pending.append(read)
            expected.writeImmutableBuffer(read)
        }
        #expect(pending.capacity <= 4 * expected.readableBytes)
        var large = ByteBuffer(repeating: 7, count: 40 * 1_024)
        pending.append(large)
        expected.writeBuffer(&large)
        pending.append(ByteBuffer(string: "end"))
        expected.writeString("end")
        var all = ByteBuffer()
        while var next = pending.popFirst() { all.writeBuffer(&next) }
        #expect(all == expected)
        #expect(pending.capacity == 0 && pending.isEmpty)
    }
}

private enum Break: CaseIterable {
    case reset
    case closed
    case inactive
}

/// Behind the tap, in the place of what passes the client on.
private final class Passed: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private(set) var bytes = ByteBuffer()
    private(set) var inputIsClosed = false

    var text: String { String(buffer: self.bytes) }
    var count: Int { self.bytes.readableBytes }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.bytes.writeImmutableBuffer(Self.unwrapInboundIn(data))
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) { self.inputIsClosed = true }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}

private struct TappedClient {
    let channel: EmbeddedChannel
    let passed = Passed()

    func say(_ text: String) throws { try self.channel.writeInbound(ByteBuffer(string: text)) }
}

private final class Stage: ConnectionAccess {
    enum End: Equatable {
        case end
        case reset(StreamErrorCode)
    }

    let loop = EmbeddedEventLoop()
    let memory = CopyMemory()
    let owners = StreamOwners()
    private(set) lazy var copies = MirrorCopies(self, memory: self.memory, on: self.loop)
    private var workspace: Initiator
    private var sidecar: Responder
    private let key: PublicKey
    private let carrier = CarrierID(1)
    private var now = Instant(nanoseconds: 1_000_000_000)
    private var streams: [StreamID] = []
    private(set) var heardBytes: [StreamID: ByteBuffer] = [:]
    private var endOf: [StreamID: End] = [:]

    static let header = ByteBuffer(string: "header")

    init(streams: UInt64 = 100) throws {
        let (workspace, sidecar) = (StaticKeyPair.generate(), StaticKeyPair.generate())
        self.key = workspace.publicKey
        var configuration = Initiator.Configuration(staticKey: workspace, responder: sidecar.publicKey)
        configuration.tunnel.maxStreamsFromPeer = streams
        self.workspace = Initiator(configuration, random: .system) { TAI64N(unixSeconds: 1, nanoseconds: 0) }
        self.sidecar = Responder(staticKey: sidecar, configuration: TunnelConfiguration(), random: .system)
        self.sidecar.accept(self.key)
        self.workspace.carrierOpened(self.carrier, at: self.now)
        self.sidecar.carrierOpened(self.carrier, at: self.now)
        self.memory.onShortage = { [unowned self] in self.copies.look() }
        self.settle()
    }

    func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        self.sidecar.withConnection(of: self.key, body)
    }

    /// - Parameter undecided: copies that begin only if the client isn't a probe.
    func client(copies: Int = 1, undecided: Int = 0) throws -> TappedClient {
        let client = TappedClient(channel: EmbeddedChannel(loop: self.loop))
        let begin = { [copies = self.copies] in copies.begin(Self.header, of: .init(80)) }
        let tap = MirrorTap((0..<copies).map { _ in begin() })
        if undecided > 0 { tap.waitForFirstBytes(on: self.loop) { (0..<undecided).map { _ in begin() } } }
        try client.channel.pipeline.syncOperations.addHandlers(tap, client.passed)
        return client
    }

    /// What was heard, and how it ended, in the order of the streams.
    var heard: [String] { self.streams.map { String(buffer: self.heardBytes[$0] ?? ByteBuffer()) } }
    var ends: [End?] { self.streams.map { self.endOf[$0] } }

    /// Nothing is open or kept.
    var isClean: Bool {
        self.copies.look()
        return self.copies.count == 0 && self.memory.used == 0
            && self.withConnection { $0.openStreamCount == 0 && $0.memoryInUse == 0 } ?? true
    }

    func onStream(_ index: Int, _ body: (inout Connection, StreamID) -> Void) {
        let stream = self.streams[index]
        _ = self.workspace.withConnection { body(&$0, stream) }
    }

    /// Hands everything over, both ways, until nothing more happens.
    func settle() {
        var quiet = 0
        while quiet < 3 {
            quiet += 1
            while self.passOne() { quiet = 0 }
            self.loop.advanceTime(by: .milliseconds(20))
            self.now = self.now + .milliseconds(100)
            self.workspace.handleDeadline(at: self.now)
            self.sidecar.handleDeadline(at: self.now)
        }
    }

    private func passOne() -> Bool {
        var (down, up) = (ByteBuffer(), ByteBuffer())
        let hasDown = self.sidecar.writeNext(into: &down, for: self.carrier, at: self.now)
        if hasDown { _ = self.workspace.receive(down, from: self.carrier, at: self.now) }
        self.hearWorkspace()
        let hasUp = self.workspace.writeNext(into: &up, for: self.carrier, at: self.now)
        if hasUp { _ = self.sidecar.receive(up, from: self.carrier, at: self.now) }
        while let event = self.sidecar.nextEvent() {
            if case .connection(_, let event) = event { _ = self.owners.tell(event) }
        }
        return hasDown || hasUp
    }

    private func hearWorkspace() {
        while let event = self.workspace.nextEvent() {
            guard case .connection(let event) = event else { continue }
            switch event {
            case .streamOpened(let id): self.streams.append(id)
            case .readable(let id): self.read(id)
            case .reset(let id, let code):
                self.read(id)
                self.endOf[id] = .reset(code)
                _ = self.workspace.withConnection { connection in
                    connection.reset(id, code)
                    connection.release(id)
                }
            default: break
            }
        }
    }

    private func read(_ id: StreamID) {
        while let next = self.workspace.withConnection({ $0.read(id) }) {
            switch next {
            case .bytes(var bytes):
                if self.heardBytes[id] == nil {
                    bytes.moveReaderIndex(forwardBy: min(bytes.readableBytes, Self.header.readableBytes))
                }
                self.heardBytes[id, default: ByteBuffer()].writeBuffer(&bytes)
            case .end: self.endOf[id] = .end
            case .nothing: return
            }
        }
    }
}
