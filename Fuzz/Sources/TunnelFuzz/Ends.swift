import NIOCore
import Noise
import TunnelSimulator

@testable import InterceptProtocol
@testable import Tunnel

/// A workspace's and a sidecar's half of a tunnel. One of them is fed; the other is its honest peer, whose keys seal what the
/// fuzzer says.
///
/// What is checked after each step: the bounds that the simulator checks, that a stranger is never answered, and that no
/// message is longer than the peer takes. Everything else is libFuzzer's and the sanitizers': traps, hangs, memory.
final class Ends {
    private static let route = DatagramRoute(remote: PathAddress(ipv4: 0xc000_0201, port: 40_000))

    /// What an application writes at once.
    private static let piece = 65_536

    private let setting: Setting
    private let random = SeededRandom(seed: 1)
    private var initiator: Initiator
    private var responder: Responder
    private var now = Instant(nanoseconds: 1_000_000_000_000)
    private var carrier = CarrierID(1)
    private var framer: MessageFramer
    /// The fuzzer's messages get numbers that the honest half doesn't use.
    private var number: UInt64 = 1 << 20
    private var honest: [ByteBuffer] = []
    private var control = ControlMessageDecoder()
    private var streams: [StreamID] = []
    /// A valid initiation has come on the carrier: an answer is no wonder.
    private var isGreeted = false

    private var feedsInitiator: Bool { self.setting.contains(.initiator) }
    private var usesDatagrams: Bool { self.setting.contains(.datagrams) }
    private static var key: StaticKeyPair { SimulatedKeys.initiators[0] }

    init(_ setting: Setting) {
        self.setting = setting
        let configuration = Initiator.Configuration(
            staticKey: Self.key,
            responder: SimulatedKeys.responder.publicKey,
            presharedKey: SimulatedKeys.presharedKey
        )
        let clock = self.random.fork()
        self.initiator = Initiator(configuration, random: clock.source) {
            TAI64N(unixSeconds: 1_800_000_000, nanoseconds: 0)
        }
        self.responder = Responder(
            staticKey: SimulatedKeys.responder,
            configuration: TunnelConfiguration(),
            random: self.random.fork().source
        )
        self.responder.accept(Self.key.publicKey, presharedKey: SimulatedKeys.presharedKey)
        self.framer = Self.framer(setting)
        self.openCarrier()
        if !setting.contains(.stranger) { self.shakeHands() }
    }

    private static func framer(_ setting: Setting) -> MessageFramer {
        MessageFramer(
            role: setting.contains(.initiator) ? .initiator : .responder,
            maxMessageSize: Constants.defaultMaxMessageSize
        )
    }

    private func openCarrier() {
        self.initiator.carrierOpened(self.carrier, self.usesDatagrams ? .datagrams : .stream, at: self.now)
        if !self.usesDatagrams { self.responder.carrierOpened(self.carrier, at: self.now) }
    }

    /// Until neither has anything to say: both know each other then.
    private func shakeHands() {
        for _ in 0..<8 {
            var isQuiet = true
            while let message = self.next(ofInitiator: true) {
                isQuiet = false
                self.honest.append(message)
                self.deliver(message, toInitiator: false)
            }
            while let message = self.next(ofInitiator: false) {
                isQuiet = false
                self.honest.append(message)
                self.deliver(message, toInitiator: true)
            }
            if isQuiet { break }
        }
        // The two agents talk on stream 0, and the sidecar opens a stream for each connection.
        _ = self.initiator.withConnection { $0.openStream() }
        self.framer.open()
        self.isGreeted = true
    }

    // MARK: Feeding

    func perform(_ operation: Operation, _ piece: ByteBuffer) {
        var piece = piece
        switch operation {
        case .frames: self.feed(self.sealed(piece))
        case .framesLater:
            self.number += UInt64(piece.readInteger(as: UInt8.self) ?? 0)
            self.feed(self.sealed(piece))
        case .bytes: self.feedBytes(piece)
        case .message: self.feed(piece)
        case .tampered: self.feedTampered(piece)
        case .initiation:
            let receiver = self.feedsInitiator ? Self.key.publicKey : SimulatedKeys.responder.publicKey
            HandshakeMessage.appendMacs(MacKey(receiver: receiver), to: &piece)
            self.feed(piece)
        case .parameters: self.feedHandshake(piece)
        case .time: self.pass(piece)
        case .application: self.act(piece)
        case .carrier: self.changeCarrier()
        }
        self.settle()
    }

    /// A data message of the peer's; nil: there is no session.
    private func sealed(_ frames: ByteBuffer) -> ByteBuffer? {
        let session =
            self.feedsInitiator
            ? self.responder.sessions.values.max { $0.session.createdAt < $1.session.createdAt }?.session
            : self.initiator.sessions.last?.session
        guard let session else { return nil }
        var message = ByteBuffer()
        message.reserveCapacity(Constants.dataOverhead + frames.readableBytes + CipherState.roomBehind)
        message.writeRepeatingByte(0, count: Constants.dataHeaderSize)
        message.writeImmutableBuffer(frames)
        message.writeRepeatingByte(0, count: Constants.tagSize)
        self.number += 1
        session.seal(messageAt: 0, in: &message, counter: self.number)
        return message
    }

    private func feed(_ message: ByteBuffer?) {
        if let message { self.deliver(message, toInitiator: self.feedsInitiator) }
    }

    private func deliver(_ message: ByteBuffer, toInitiator: Bool) {
        if toInitiator {
            _ = self.initiator.receive(message, from: self.carrier, at: self.now)
        } else if self.usesDatagrams {
            let drops = self.responder.receive(datagram: message, from: Self.route, at: self.now)
            if drops == .taken { self.isGreeted = true }
        } else {
            let drops = self.responder.receive(message, from: self.carrier, at: self.now)
            if drops == .taken { self.isGreeted = true }
        }
    }

    private func feedBytes(_ bytes: ByteBuffer) {
        var bytes = bytes
        // Cut as a socket may cut them: the first byte says where.
        let cut = Int(bytes.readInteger(as: UInt8.self) ?? 0)
        let first = bytes.readSlice(length: min(cut, bytes.readableBytes)) ?? ByteBuffer()
        for part in [first, bytes] {
            self.framer.append(part)
            reading: while true {
                switch self.framer.next() {
                case .message(let message):
                    self.feed(message)
                    if self.isGreeted { self.framer.open() }
                case .needsMore: break reading
                case .violation:
                    self.changeCarrier()
                    break reading
                }
            }
        }
    }

    private func feedTampered(_ piece: ByteBuffer) {
        var piece = piece
        guard let which: UInt8 = piece.readInteger(), let place: UInt16 = piece.readInteger(), !self.honest.isEmpty
        else { return }
        var message = self.honest[Int(which) % self.honest.count]
        for (offset, byte) in piece.readableBytesView.enumerated() {
            let at = message.readerIndex + Int(place) + offset
            guard let before: UInt8 = message.getInteger(at: at), at < message.writerIndex else { break }
            message.setInteger(before ^ byte, at: at)
        }
        self.feed(message)
    }

    /// A handshake that is right in all but what the two tell each other of themselves.
    private func feedHandshake(_ parameters: ByteBuffer) {
        guard !self.feedsInitiator else { return self.feedResponse(parameters) }
        var payload = ByteBuffer()
        self.number += 1
        TAI64N(unixSeconds: 1_900_000_000 + Int64(self.number), nanoseconds: 0).write(into: &payload)
        payload.writeImmutableBuffer(parameters)
        let sizes = Constants.initiationSizes
        let size = self.usesDatagrams ? Constants.baseDatagramSize : sizes.lowerBound
        let overhead = HandshakeMessage.initiationHeader + InitiatorHandshake.message1Overhead + HandshakeMessage.macs
        let lacking = size - overhead - payload.readableBytes
        if lacking > 0 { TransportParameters.writePadding(max(2, lacking), into: &payload) }
        var handshake = HandshakeMessage.withPrologue { prologue in
            InitiatorHandshake(
                staticKey: Self.key,
                responder: SimulatedKeys.responder.publicKey,
                presharedKey: SimulatedKeys.presharedKey,
                prologue: prologue,
                random: self.random.source,
                arena: self.initiator.arena
            )
        }
        var message = ByteBuffer()
        message.writeInteger(OuterMessageType.initiation.rawValue, endianness: .little)
        message.writeInteger(UInt32(truncatingIfNeeded: self.number), endianness: .little)
        message.writeWithOutputRawSpan(
            minimumWritableBytes: InitiatorHandshake.message1Overhead + payload.readableBytes
        ) { output in _ = handshake.writeMessage1(payload: payload.readableBytesSpan, into: &output) }
        HandshakeMessage.appendMacs(MacKey(receiver: SimulatedKeys.responder.publicKey), to: &message)
        self.feed(message)
    }

    /// The initiator's own initiation, answered with these parameters.
    private func feedResponse(_ parameters: ByteBuffer) {
        self.now = self.now + .seconds(121)
        self.initiator.handleDeadline(at: self.now)
        var initiation: ByteBuffer?
        while let message = self.next(ofInitiator: true) {
            if OuterMessageType(of: message) == .initiation { initiation = message }
        }
        guard let initiation, let index: UInt32 = initiation.headerInteger(at: 4),
            let noise = HandshakeMessage.noisePart(of: initiation, header: HandshakeMessage.initiationHeader)
        else { return }
        let opened = HandshakeMessage.withPrologue { prologue in
            ResponderHandshake(
                message1: noise.readableBytesSpan,
                staticKey: SimulatedKeys.responder,
                prologue: prologue,
                arena: self.responder.arena
            )
        }
        guard var handshake = opened else { return }
        var payload = ByteBuffer()
        payload.writeWithOutputRawSpan(minimumWritableBytes: noise.readableBytes) { output in
            _ = handshake.readPayload(noise.readableBytesSpan, into: &output)
        }
        var message = ByteBuffer()
        message.writeInteger(OuterMessageType.response.rawValue, endianness: .little)
        message.writeInteger(UInt32(7), endianness: .little)
        message.writeInteger(index, endianness: .little)
        message.writeWithOutputRawSpan(
            minimumWritableBytes: ResponderHandshake.message2Overhead + parameters.readableBytes
        ) { output in
            _ = handshake.writeMessage2(
                presharedKey: SimulatedKeys.presharedKey,
                payload: parameters.readableBytesSpan,
                random: self.random.source,
                into: &output
            )
        }
        HandshakeMessage.appendMacs(MacKey(receiver: Self.key.publicKey), to: &message)
        self.feed(message)
    }

    private func pass(_ piece: ByteBuffer) {
        for exponent in piece.readableBytesView.prefix(8) {
            self.now = self.now + .nanoseconds(1 << Int64(min(exponent % 40, 38)))
            if self.feedsInitiator {
                self.initiator.handleDeadline(at: self.now)
            } else {
                self.responder.handleDeadline(at: self.now)
            }
            self.settle()
        }
    }

    private func changeCarrier() {
        guard self.carrier.rawValue < 32 else { return }
        self.initiator.carrierClosed(self.carrier, at: self.now)
        if !self.usesDatagrams { self.responder.carrierClosed(self.carrier, at: self.now) }
        self.carrier = CarrierID(self.carrier.rawValue + 1)
        self.framer = Self.framer(self.setting)
        self.isGreeted = self.usesDatagrams && self.isGreeted
        self.openCarrier()
    }

    // MARK: The application of the half that is fed

    private func withConnection(_ body: (inout Connection) -> Void) {
        if self.feedsInitiator {
            _ = self.initiator.withConnection { body(&$0) }
        } else {
            _ = self.responder.withConnection(of: Self.key.publicKey) { body(&$0) }
        }
    }

    private func act(_ piece: ByteBuffer) {
        for verb in piece.readableBytesView.prefix(32) {
            self.withConnection { connection in
                let id = self.streams.isEmpty ? .control : self.streams[Int(verb >> 4) % self.streams.count]
                switch verb & 15 {
                case 0: if let id = connection.openStream() { self.streams.append(id) }
                // As its callers do, it writes where there is room, and then a piece.
                case 1, 2:
                    guard connection.writableBytes(id) > 0 else { break }
                    connection.write(ByteBuffer(repeating: verb, count: verb & 15 == 1 ? 1_000 : Self.piece), to: id)
                case 3: connection.finish(id)
                case 4: connection.reset(id, .tcpReset)
                case 5: connection.stopSending(id, .handedToOriginal)
                case 6: connection.release(id)
                case 7: _ = connection.read(id, atMost: 100)
                case 8: _ = connection.sendDatagram(ByteBuffer(repeating: verb, count: 300), isTracked: true)
                case 9: _ = connection.sendDatagram(ByteBuffer(repeating: verb, count: 1_150))
                case 10: _ = connection.isAcknowledged(id)
                case 11: _ = connection.writableBytes(id)
                default: break
                }
            }
        }
        self.streams = self.streams.suffix(16)
    }

    // MARK: What follows

    /// Takes all that the half has to say, as its driver would.
    private func settle() {
        while self.takeEvent() {}
        // A window's worth at most: what isn't acknowledged ends it.
        var sent = 0
        while sent < 512, let message = self.next(ofInitiator: self.feedsInitiator) {
            sent += 1
            precondition(message.readableBytes <= Constants.maxMessageSizes.upperBound, "a message that nobody takes")
            precondition(
                self.feedsInitiator || self.isGreeted || OuterMessageType(of: message) == .cookieReply,
                "a stranger was answered"
            )
        }
        while self.takeEvent() {}
        self.withConnection { Self.check($0.inspection) }
    }

    private func next(ofInitiator: Bool) -> ByteBuffer? {
        var message = ByteBuffer()
        let isThere =
            if ofInitiator {
                self.initiator.writeNext(into: &message, for: self.carrier, at: self.now)
            } else if self.usesDatagrams {
                self.responder.writeNextDatagram(into: &message, at: self.now) != nil
            } else {
                self.responder.writeNext(into: &message, for: self.carrier, at: self.now)
            }
        return isThere ? message : nil
    }

    private func takeEvent() -> Bool {
        if self.feedsInitiator {
            guard let event = self.initiator.nextEvent() else { return false }
            switch event {
            case .connection(let event): self.take(event)
            case .established:
                self.control = ControlMessageDecoder()
                self.streams = []
                _ = self.initiator.withConnection { $0.openStream() }
            case .closeCarrier(let id) where id == self.carrier: self.changeCarrier()
            default: break
            }
        } else {
            guard let event = self.responder.nextEvent() else { return false }
            switch event {
            case .connection(_, let event): self.take(event)
            case .established:
                self.control = ControlMessageDecoder()
                self.streams = []
            case .closeCarrier(let id) where id == self.carrier: self.changeCarrier()
            default: break
            }
        }
        return true
    }

    private func take(_ event: ConnectionEvent) {
        switch event {
        case .streamOpened(let id): self.streams = self.streams.suffix(15) + [id]
        case .readable(let id):
            self.withConnection { connection in
                while case .bytes(var bytes) = connection.read(id) {
                    if id == .control { self.readControl(bytes) } else { _ = ConnectionHeader.parse(&bytes) }
                }
            }
        case .datagramsReadable:
            self.withConnection { connection in
                while let datagram = connection.nextDatagram() { _ = FlowDatagram.parse(datagram) }
            }
        case .reset(let id, _), .stopped(let id, _): self.withConnection { $0.release(id) }
        default: break
        }
    }

    private func readControl(_ bytes: ByteBuffer) {
        self.control.append(bytes)
        while true {
            guard let next = try? self.control.next(), next != .needsMore else { return }
        }
    }

    /// As `World.checkBounds` of the simulator.
    private static func check(_ connection: ConnectionInspection) {
        let slack = Self.piece * max(1, connection.streams.count)
        precondition(
            connection.sendBuffered <= TunnelConfiguration().sendBuffer + slack,
            "too much is kept to be sent"
        )
        precondition(connection.gaps >= 0 && connection.gaps <= 16_384, "too many gaps")
        precondition(connection.streams.reduce(0) { $0 + $1.gaps } == connection.gaps, "gaps are miscounted")
        precondition(connection.ackRanges <= 64, "too many ranges to acknowledge")
        precondition(connection.messagesInFlight <= 32_768, "too many messages in flight")
        precondition(connection.pathResponses <= 8, "too many challenges to answer")
        precondition(connection.datagramBytes <= 1_024 * 1_024, "too many datagrams wait")
        if let recovery = connection.recovery {
            precondition(recovery.inFlight == recovery.counted, "bytes in flight are miscounted")
            precondition(1_200...65_504 ~= recovery.mtu, "a strange size of messages")
            precondition(recovery.window >= 2 * 1_200, "a strange window")
        }
    }
}
