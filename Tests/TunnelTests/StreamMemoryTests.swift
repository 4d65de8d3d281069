import NIOCore
import Noise
import Testing

@testable import Tunnel

/// What all keys together can have a responder hold of streams' data, and what each has in any case.
@Suite struct StreamMemoryTests {
    private static let mebibyte = 1_024 * 1_024

    /// One responder and the keys that it accepts, each on a byte stream of its own.
    private final class Stage {
        var now = Instant.seconds(1)
        let sidecar = StaticKeyPair.generate()
        var responder: Responder
        var peers: [Peer] = []

        final class Peer {
            let key: PublicKey
            let carrier: CarrierID
            var initiator: Initiator
            var streams: [StreamID] = []

            init(_ key: PublicKey, on carrier: CarrierID, _ initiator: consuming Initiator) {
                self.key = key
                self.carrier = carrier
                self.initiator = initiator
            }
        }

        init(_ configuration: TunnelConfiguration = .init()) {
            self.responder = Responder(staticKey: self.sidecar, configuration: configuration, random: .system)
        }

        /// One more key, with so many streams on which either may say something.
        func connect(streams: Int) -> Peer {
            let own = StaticKeyPair.generate()
            let key = own.publicKey
            self.responder.accept(key)
            let configuration = Initiator.Configuration(staticKey: own, responder: self.sidecar.publicKey)
            let carrier = CarrierID(UInt64(self.peers.count + 1))
            let peer = Peer(
                key,
                on: carrier,
                Initiator(configuration, random: .system) { TAI64N(unixSeconds: 1, nanoseconds: 0) }
            )
            self.peers.append(peer)
            peer.initiator.carrierOpened(carrier, at: self.now)
            self.responder.carrierOpened(carrier, at: self.now)
            self.pass(peer)
            peer.streams = (0..<streams).compactMap { _ in self.of(peer) { $0.openStream() } ?? nil }
            for stream in peer.streams { self.of(peer) { _ = $0.write(ByteBuffer(bytes: [1]), to: stream) } }
            self.pass(peer)
            #expect(peer.streams.count == streams)
            return peer
        }

        /// Both ways, until there is nothing more.
        func pass(_ peer: Peer) {
            var isMore = true
            while isMore {
                isMore = false
                var message = ByteBuffer()
                while self.responder.writeNext(into: &message, for: peer.carrier, at: self.now) {
                    _ = peer.initiator.receive(message, from: peer.carrier, at: self.now)
                    message.clear()
                    isMore = true
                }
                while peer.initiator.writeNext(into: &message, for: peer.carrier, at: self.now) {
                    _ = self.responder.receive(message, from: peer.carrier, at: self.now)
                    message.clear()
                    isMore = true
                }
                while self.responder.nextEvent() != nil {}
                while peer.initiator.nextEvent() != nil {}
            }
        }

        @discardableResult
        func of<Value>(_ peer: Peer, _ body: (inout Connection) -> Value) -> Value? {
            self.responder.withConnection(of: peer.key, body)
        }

        /// The peer says as much as it may, on all its streams.
        func fill(_ peer: Peer, with count: Int = 256 * 1_024) {
            let bytes = ByteBuffer(repeating: 7, count: count)
            for stream in peer.streams { _ = peer.initiator.withConnection { $0.write(bytes, to: stream) } }
            self.pass(peer)
        }

        func readAll(_ peer: Peer) {
            for stream in peer.streams {
                self.of(peer) { connection in while case .bytes = connection.read(stream) {} }
            }
            self.pass(peer)
        }

        func held(_ peer: Peer) -> Int { self.of(peer) { $0.memoryInUse } ?? 0 }

        var held: Int { self.peers.reduce(0) { $0 + self.held($1) } }

        func end(_ peer: Peer) {
            self.responder.close(peer.key, .done, at: self.now)
            self.pass(peer)
        }
    }

    /// A small world: less is to be sent until its bounds are reached.
    private static var small: TunnelConfiguration {
        var configuration = TunnelConfiguration()
        configuration.maxConnectionWindow = 1_024 * 1_024
        configuration.streamMemory = 4 * 1_024 * 1_024
        configuration.connectionMemoryAtLeast = 128 * 1_024
        configuration.sendBuffer = 1_024 * 1_024
        return configuration
    }

    @Test func `alone a key has all that a connection may have, and all keys together have a bound`() {
        let stage = Stage()
        for number in 0..<6 {
            let peer = stage.connect(streams: 140)
            stage.fill(peer)
            if number < 3 { #expect(stage.held(peer) == 16 * Self.mebibyte) }
            #expect(stage.held(peer) > Self.mebibyte)
        }
        #expect(stage.held <= (64 + 6) * Self.mebibyte, "\(stage.held) bytes are held")
    }

    /// Nothing is kept from it, however much others were promised.
    @Test func `who comes last has its least`() {
        let stage = Stage(Self.small)
        for _ in 0..<40 {
            let peer = stage.connect(streams: 10)
            stage.fill(peer)
            #expect(stage.held(peer) >= 128 * 1_024)
        }
        #expect(stage.held <= 4 * Self.mebibyte + 40 * 128 * 1_024, "\(stage.held) bytes are held")
    }

    /// A key that says nothing takes nothing of what all share.
    @Test func `what nobody uses is promised to nobody`() {
        let stage = Stage(Self.small)
        for _ in 0..<40 { _ = stage.connect(streams: 1) }
        let peer = stage.connect(streams: 10)
        stage.fill(peer)
        #expect(stage.held(peer) == Self.mebibyte)
    }

    @Test func `those who go on sending come to have equal parts`() {
        let stage = Stage(Self.small)
        for _ in 0..<8 { stage.fill(stage.connect(streams: 10)) }
        let (most, least) = (stage.held(stage.peers[0]), stage.held(stage.peers[7]))
        #expect(most > 3 * least, "the first had \(most), the last \(least)")
        for _ in 0..<12 {
            for peer in stage.peers {
                stage.readAll(peer)
                stage.fill(peer)
            }
        }
        let parts = stage.peers.map { stage.held($0) }
        // 128 KiB, and a ninth of 4 MiB: an eighth each, and as much is left.
        for part in parts { #expect(450_000...700_000 ~= part, "\(parts)") }
    }

    /// Its own frames don't tell when there is more room, since its peer has no credit for any.
    @Test func `a key whose readers stand still gets what others leave`() {
        let stage = Stage(Self.small)
        for _ in 0..<12 { stage.fill(stage.connect(streams: 10)) }
        let last = stage.peers[11]
        let before = stage.held(last)
        #expect(before < 512 * 1_024)
        for peer in stage.peers.dropLast() { stage.end(peer) }
        stage.now = stage.now + .seconds(2)
        stage.responder.handleDeadline(at: stage.now)
        stage.pass(last)
        #expect(stage.held(last) == Self.mebibyte)
    }

    @Test func `what is kept for peers that acknowledge nothing has a bound, too`() {
        let stage = Stage()
        for _ in 0..<6 { _ = stage.connect(streams: 140) }
        let piece = ByteBuffer(repeating: 7, count: 16 * 1_024)
        for peer in stage.peers {
            for stream in peer.streams {
                stage.of(peer) { connection in
                    while connection.writableBytes(stream) > 0 { connection.write(piece, to: stream) }
                }
            }
            #expect(stage.held(peer) >= Self.mebibyte)
        }
        #expect(stage.held(stage.peers[0]) >= 16 * Self.mebibyte)
        // Each may write beyond by one piece.
        #expect(stage.held <= (64 + 6 + 1) * Self.mebibyte, "\(stage.held) bytes are kept")
        // One that acknowledges hears that it may say more.
        let last = stage.peers[5]
        var isWritable = false
        var message = ByteBuffer()
        for _ in 0..<100 {
            while stage.responder.writeNext(into: &message, for: last.carrier, at: stage.now) {
                _ = last.initiator.receive(message, from: last.carrier, at: stage.now)
                message.clear()
            }
            for stream in last.streams {
                _ = last.initiator.withConnection { connection in while case .bytes = connection.read(stream) {} }
            }
            while last.initiator.writeNext(into: &message, for: last.carrier, at: stage.now) {
                _ = stage.responder.receive(message, from: last.carrier, at: stage.now)
                message.clear()
            }
            while let event = stage.responder.nextEvent() {
                if case .connection(last.key, .writable) = event { isWritable = true }
            }
        }
        #expect(isWritable)
    }
}
