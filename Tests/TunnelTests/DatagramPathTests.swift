import NIOCore
import Noise
import Testing

@testable import Tunnel
@testable import TunnelSimulator

/// Paths of datagrams where somebody wants to bend them: whose address counts, what a flood costs, and what waits for what.
@Suite struct DatagramPathTests {
    // MARK: Whose address counts

    /// A NAT gives another port between the initiation and the first data, or somebody repeats the initiation from elsewhere
    /// before it arrives: the new connection has shown no address yet, and is asked at the one that it comes from.
    @Test func firstDataComesFromElsewhere() {
        let pair = DatagramPair()
        pair.initiator.carrierOpened(DatagramPair.first, .datagrams, at: pair.now)
        pair.up()
        pair.down()
        for _ in 0..<2 {
            pair.up(from: DatagramPair.there)
            pair.down()
        }
        #expect(pair.responder.path(of: pair.key) == DatagramPair.there)
        let carries = pair.link?.usesDatagrams ?? false
        #expect(carries)
    }

    /// Two sessions, shaken at two addresses, whose messages come in turn: the path follows once, and nobody else is sent
    /// more than three times what came from there (RFC 9000 §8.1).
    @Test func goingBackAndForthBetweenSessionsMovesNothing() {
        let pair = DatagramPair()
        pair.shakeHands()
        pair.shakeHands(DatagramPair.second, from: DatagramPair.there)
        #expect(pair.responder.path(of: pair.key) == DatagramPair.there)
        let sessions = pair.initiator.sessions.map(\.session)
        #expect(sessions.count == 2)
        pair.fillStream()
        let before = pair.responding { $0.statistics.carriers }
        var (sentThere, came) = (0, 0)
        for turn in 0..<1_000 {
            pair.now = pair.now + .milliseconds(1)
            let message = pair.ping(sealedWith: sessions[turn % 2])
            let address = turn % 2 == 0 ? DatagramPair.here : DatagramPair.there
            if turn % 2 == 0 { came += message.readableBytes }
            pair.hand(message, from: address)
            sentThere += pair.down(isLost: true).filter { $0.to == DatagramPair.here }.reduce(0) { $0 + $1.size }
        }
        let after = pair.responding { $0.statistics.carriers }
        #expect(after != nil && after == before)
        #expect(sentThere <= 3 * came)
        #expect(pair.responder.path(of: pair.key) == DatagramPair.there)
    }

    /// One that never answers is forgotten, however little came from there.
    @Test func candidateIsForgotten() throws {
        let pair = DatagramPair()
        pair.shakeHands()
        let session = try #require(pair.newestSession)
        pair.hand(pair.ping(sealedWith: session), from: DatagramPair.there)
        #expect(pair.link?.candidate != nil)
        for _ in 0..<100 {
            pair.down(isLost: true)
            pair.now = pair.now + .milliseconds(50)
            pair.responder.handleDeadline(at: pair.now)
        }
        #expect(pair.link?.candidate == nil)
        #expect(pair.responder.path(of: pair.key) == DatagramPair.here)
    }

    /// Sockets may hold a link longer than its connection, or the responder, lives.
    @Test(arguments: [false, true])
    func candidatesKeysEndWithTheConnection(isReplaced: Bool) throws {
        let pair = DatagramPair()
        let arena = pair.responder.arena
        pair.shakeHands()
        let session = try #require(pair.newestSession)
        pair.hand(pair.ping(sealedWith: session), from: DatagramPair.there)
        let link = try #require(pair.link)
        #expect(link.candidate != nil && arena.liveSecrets > 0)
        if isReplaced {
            pair.responder = Responder(staticKey: .generate(), configuration: TunnelConfiguration(), random: .system)
        } else {
            pair.responder.revoke(pair.key, at: pair.now)
            pair.now = pair.now + .seconds(2)
            pair.responder.handleDeadline(at: pair.now)
        }
        #expect(arena.liveSecrets == 0)
        withExtendedLifetime(link) {}
    }

    /// Also where what came has a length that no peer of ours sends.
    @Test func challengesStayWithinThreeTimesWhatCame() throws {
        let pair = DatagramPair()
        pair.shakeHands()
        let session = try #require(pair.link?.sessions.last?.session)
        for received in 16...450 {
            pair.link?.candidate = PathCandidate(
                route: DatagramRoute(remote: DatagramPair.there),
                session: session,
                data: 1,
                since: pair.now,
                bytesReceived: received
            )
            let sent = pair.down(isLost: true).filter { $0.to == DatagramPair.there }.reduce(0) { $0 + $1.size }
            #expect(sent <= 3 * received)
        }
    }

    // MARK: Carriers

    /// The socket is closed by its owner: what stood by carries on at once.
    @Test func standbyTakesOverFromAClosedSocket() {
        let pair = DatagramPair()
        pair.shakeHands()
        pair.shakeHandsOnStream()
        #expect(pair.usesDatagrams)
        pair.initiator.carrierClosed(DatagramPair.first, at: pair.now)
        let carrier = pair.initiating { $0.carrier } ?? nil
        #expect(carrier == DatagramPair.stream)
        #expect(!pair.usesDatagrams)
    }

    // MARK: Floods

    /// Whoever forges a peer's address uses up what initiations from there may cost, and not what its byte stream has.
    @Test func floodFromOnesOwnAddressLeavesTheStreamItsKeys() {
        let pair = DatagramPair()
        pair.shakeHands()
        pair.shakeHandsOnStream()
        for _ in 0..<1_000 { pair.hand(pair.forgedInitiation(), from: DatagramPair.here) }
        pair.initiator.initiate(on: DatagramPair.stream, at: pair.now)
        var message = ByteBuffer()
        expect(pair.initiator.writeNext(into: &message, for: DatagramPair.stream, at: pair.now))
        let verdict = pair.responder.receive(message, from: DatagramPair.stream, at: pair.now)
        #expect(verdict == .taken)
    }

    /// A thousand cookie replies wait for the socket: the response of who was let in goes first, and is never pushed out.
    @Test func responsesGoBeforeCookieReplies() {
        let pair = DatagramPair()
        pair.initiator.carrierOpened(DatagramPair.first, .datagrams, at: pair.now)
        pair.up()
        for _ in 0..<1_000 { pair.hand(pair.forgedInitiation(), from: DatagramPair.there) }
        let sent = pair.down()
        #expect(sent.first?.type == 2)
        #expect(sent.count == 1 + Constants.datagramAnswersKept)
        #expect(sent.dropFirst().allSatisfy { $0.type == 3 && $0.to == DatagramPair.there })
    }

    /// Answers to challenges wait for no window; what goes along with them would be a way past it.
    @Test func challengesDontOpenTheWindow() throws {
        let pair = DatagramPair()
        pair.shakeHands()
        pair.fillStream()
        let full = try #require(pair.responding { $0.recovery?.congestion.window } ?? nil)
        var answered = 0
        for number in 0..<1_000 as Range<UInt64> {
            var frames = ByteBuffer()
            frames.writeVarInt(FrameType.pathChallenge)
            frames.writeInteger(number)
            pair.link?.connection.receive(
                frames: frames,
                number: 1_000_000 + number,
                bytes: 48,
                over: .datagrams,
                at: pair.now
            )
            answered += pair.down(isLost: true).reduce(0) { $0 + $1.size }
        }
        let after = try #require(pair.responding { $0.recovery?.inFlight } ?? nil)
        #expect(after <= full + Constants.baseDatagramSize)
        // Each answer has its header, its tag and a frame of nine bytes, in units of 16.
        #expect(answered >= 1_000 * 48 && answered < 1_000 * 100)
    }

    // MARK: What waits for what

    /// A probe timeout left a probe to send, and all that waits is longer than a probe.
    @Test func leftProbeHoldsNoDatagramBack() throws {
        let pair = DatagramPair()
        pair.shakeHands()
        for _ in 0..<40 {
            pair.now = pair.now + .milliseconds(200)
            pair.initiator.handleDeadline(at: pair.now)
            pair.up()
            pair.down()
        }
        let mtu = try #require(pair.initiating { $0.pathMTU } ?? nil)
        #expect(mtu >= 1_400)
        pair.initiator.connection?.recovery?.startProbing(1)
        let taken = pair.initiator.withConnection { $0.sendDatagram(ByteBuffer(repeating: 7, count: 1_300)) } ?? nil
        #expect(taken != nil)
        #expect(pair.up() == 1)
        let received = pair.responding { $0.statistics.datagramsReceived }
        #expect(received == 1)
    }

    /// The oldest of what was sent in vain is asked for, also when nothing more can be remembered.
    @Test func probesGoOutPastAllThatMayBeRemembered() throws {
        let pair = DatagramPair()
        pair.shakeHands()
        let carrier = try #require(pair.responding { $0.carrier } ?? nil)
        let first = try #require(pair.responding { $0.numbers.next })
        for number in 0..<UInt64(Constants.unacknowledgedMessages) {
            pair.link?.connection.sent.append(SentMessage(number: first + number, time: pair.now, carrier: carrier))
        }
        pair.link?.connection.numbers = MessageNumbers(
            from: first + UInt64(Constants.unacknowledgedMessages),
            random: .system
        )
        #expect(pair.down(isLost: true).isEmpty)
        pair.link?.connection.sendProbes()
        #expect(pair.down(isLost: true).count == Constants.probesAfterTimeout)
    }

    /// A driver whose socket takes nothing now calls `handleDeadline` and writes nothing: it isn't woken again for that.
    @Test func pacingWakesOnce() throws {
        let pair = DatagramPair()
        pair.shakeHands()
        let at = pair.now + .milliseconds(1)
        pair.link?.connection.recovery?.holdBack(until: at)
        let before = pair.responding { $0.nextDeadline } ?? nil
        #expect(before == at)
        pair.link?.connection.handleDeadline(at: at)
        let after = try #require(pair.responding { $0.nextDeadline } ?? nil)
        #expect(after > at)
    }

    /// Whose peer is gone keeps no datagrams for it: those who asked have been answered by others by then.
    @Test func nothingWaitsForWhoIsGone() {
        let pair = DatagramPair()
        pair.shakeHands()
        pair.initiator.carrierClosed(DatagramPair.first, at: pair.now)
        let payload = ByteBuffer(integer: 1)
        for _ in 0..<10 { _ = pair.initiator.withConnection { $0.sendDatagram(payload) } }
        pair.now = pair.now + .seconds(3)
        pair.initiator.handleDeadline(at: pair.now)
        let waiting = pair.initiating { $0.datagrams.outgoing.count }
        #expect(waiting == 10)
        pair.now = pair.now + .seconds(3)
        pair.initiator.handleDeadline(at: pair.now)
        let (presence, left) = (pair.initiating { $0.presence }, pair.initiating { $0.datagrams.outgoing.count })
        #expect(presence == .gone)
        #expect(left == 0)
        let taken = pair.initiator.withConnection { $0.sendDatagram(payload) } ?? nil
        #expect(taken == nil)
    }
}

/// Two ends with datagrams between them, handed over by the test, from addresses that it chooses.
private final class DatagramPair {
    static let first = CarrierID(1)
    static let second = CarrierID(2)
    static let stream = CarrierID(3)
    static let here = PathAddress(ipv4: 0x0a00_0001, port: 1_000)
    static let there = PathAddress(ipv4: 0x0a00_0002, port: 2_000)

    var now = Instant.seconds(1)
    var initiator: Initiator
    var responder: Responder
    let key: PublicKey
    private let sidecar: PublicKey
    private let random = SeededRandom(seed: 1)

    init() {
        let workspace = StaticKeyPair.generate()
        let sidecar = StaticKeyPair.generate()
        self.key = workspace.publicKey
        self.sidecar = sidecar.publicKey
        let configuration = Initiator.Configuration(staticKey: workspace, responder: sidecar.publicKey)
        self.initiator = Initiator(configuration, random: .system) { TAI64N(unixSeconds: 1, nanoseconds: 0) }
        self.responder = Responder(staticKey: sidecar, configuration: TunnelConfiguration(), random: .system)
        self.responder.accept(workspace.publicKey)
    }

    var link: Link? { self.responder.peers[self.key]?.current }
    var usesDatagrams: Bool { self.initiator.usesDatagrams }
    var newestSession: Session? { self.initiator.sessions.last?.session }

    /// Of the responder's connection.
    func responding<Value>(_ body: (inout Connection) -> Value) -> Value? {
        self.link.map { body(&$0.connection) }
    }

    func initiating<Value>(_ body: (inout Connection) -> Value) -> Value? { self.initiator.withConnection(body) }

    func shakeHands(_ carrier: CarrierID = first, from address: PathAddress = here) {
        self.initiator.carrierOpened(carrier, .datagrams, at: self.now)
        for _ in 0..<3 {
            self.up(carrier, from: address)
            self.down(to: carrier)
        }
    }

    /// On a byte stream beside the datagrams.
    func shakeHandsOnStream() {
        self.initiator.carrierOpened(Self.stream, at: self.now)
        self.responder.carrierOpened(Self.stream, at: self.now)
        for _ in 0..<3 {
            var message = ByteBuffer()
            if self.initiator.writeNext(into: &message, for: Self.stream, at: self.now) {
                _ = self.responder.receive(message, from: Self.stream, at: self.now)
            }
            message.clear()
            if self.responder.writeNext(into: &message, for: Self.stream, at: self.now) {
                _ = self.initiator.receive(message, from: Self.stream, at: self.now)
            }
        }
    }

    /// All that the initiator writes, as from this address. Returns how many.
    @discardableResult
    func up(_ carrier: CarrierID = first, from address: PathAddress = here) -> Int {
        var count = 0
        while true {
            var message = ByteBuffer()
            guard self.initiator.writeNext(into: &message, for: carrier, at: self.now) else { return count }
            self.hand(message, from: address)
            count += 1
        }
    }

    func hand(_ message: ByteBuffer, from address: PathAddress) {
        _ = self.responder.receive(datagram: message, from: DatagramRoute(remote: address), at: self.now)
    }

    /// All that the responder writes, and where to.
    @discardableResult
    func down(
        to carrier: CarrierID = first,
        isLost: Bool = false
    ) -> [(to: PathAddress, size: Int, type: UInt8)] {
        var sent: [(PathAddress, Int, UInt8)] = []
        while true {
            var message = ByteBuffer()
            guard let route = self.responder.writeNextDatagram(into: &message, at: self.now) else { return sent }
            sent.append((route.remote, message.readableBytes, message.messageType))
            if !isLost { _ = self.initiator.receive(message, from: carrier, at: self.now) }
        }
    }

    /// The responder has more to send than may be in flight.
    func fillStream() {
        let opened = self.link?.connection.openStream() ?? nil
        guard let opened else { return }
        self.link?.connection.write(ByteBuffer(repeating: 7, count: 200_000), to: opened)
        self.down(isLost: true)
    }

    /// The initiator's, of which it remembers nothing.
    func ping(sealedWith session: Session) -> ByteBuffer {
        var message = ByteBuffer()
        _ = self.initiator.withConnection { connection in
            let present = connection.session
            connection.session = session
            _ = connection.writeNudge(into: &message, at: self.now)
            connection.session = present
        }
        return message
    }

    /// Its mac1 is right, and nothing else.
    func forgedInitiation() -> ByteBuffer {
        var bytes = ByteBuffer()
        bytes.writeInteger(UInt32(1), endianness: .little)
        bytes.writeRandomBytes(Constants.baseDatagramSize - 4 - 32, self.random)
        let mac1 = MacKey(receiver: self.sidecar).mac(bytes.readableBytesSpan)
        bytes.writeWithOutputRawSpan(minimumWritableBytes: 16) { mac1.write(into: &$0) }
        bytes.writeRepeatingByte(0, count: 16)
        return bytes
    }
}
