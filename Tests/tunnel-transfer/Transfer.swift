import NIOCore
import Noise
import Tunnel
import TunnelSimulator

/// One transfer through an initiator and a responder in memory, always the same: `Benchmarks/instructions` counts what it
/// costs.
@main
enum Transfer {
    static func main() {
        let ends: Ends? =
            switch CommandLine.arguments.dropFirst().first {
            case "datagrams": Ends(.datagrams, Load(streams: 1, request: 8 << 20, answer: 0))
            case "stream": Ends(.stream, Load(streams: 1, request: 8 << 20, answer: 0))
            case "requests": Ends(.datagrams, Load(streams: 4_000, request: 300, answer: 300))
            default: nil
            }
        guard let ends else { return print("usage: tunnel-transfer datagrams|stream|requests") }
        ends.shakeHands()
        Self.counted(ends)
        print("\(ends.done) streams, \(ends.messages) messages, \(ends.now.nanoseconds / 1_000_000) ms")
    }

    /// What is counted, by this name.
    @inline(never)
    private static func counted(_ ends: Ends) { while ends.done < ends.load.streams { ends.turn() } }
}

/// Streams that the responder opens, as a sidecar does: bytes there, and bytes back once their end has come.
private struct Load {
    var streams: Int
    var request: Int
    var answer: Int

    static let atOnce = 64
}

private final class Ends {
    let load: Load
    private let kind: CarrierKind
    private var initiator: Initiator
    private var responder: Responder
    private let key = SimulatedKeys.initiators[0].publicKey
    private let carrier = CarrierID(1)
    private let route = DatagramRoute(remote: PathAddress(ipv4: 0x0a00_0001, port: 1_000))
    private(set) var now = Instant(nanoseconds: 1_000_000_000)
    /// What was sent in the last turn.
    private var upwards: [ByteBuffer] = []
    private var downwards: [ByteBuffer] = []
    private var opened = 0
    private(set) var done = 0
    private(set) var messages = 0
    /// How much of its request each stream has still to write.
    private var unwritten: [StreamID: Int] = [:]
    private let piece = ByteBuffer(repeating: 7, count: 16_384)

    init(_ kind: CarrierKind, _ load: Load) {
        self.kind = kind
        self.load = load
        let random = SeededRandom(seed: 1)
        var tunnel = TunnelConfiguration()
        // What fits into an Ethernet frame; otherwise a path without a limit lets datagrams grow to 16 KiB.
        if kind == .datagrams { tunnel.maxMessageSize = 1_452 }
        var configuration = Initiator.Configuration(
            staticKey: SimulatedKeys.initiators[0],
            responder: SimulatedKeys.responder.publicKey
        )
        configuration.tunnel = tunnel
        self.initiator = Initiator(configuration, random: random.source) { TAI64N(unixSeconds: 1, nanoseconds: 0) }
        self.responder = Responder(staticKey: SimulatedKeys.responder, configuration: tunnel, random: random.source)
        self.responder.accept(self.key)
    }

    func shakeHands() {
        if self.kind == .stream { self.responder.carrierOpened(self.carrier, at: self.now) }
        self.initiator.carrierOpened(self.carrier, self.kind, at: self.now)
        while !(self.responder.withConnection(of: self.key) { $0.hasCarrier } ?? false) { self.turn() }
        for _ in 0..<8 { self.turn() }
    }

    /// A millisecond: what was sent in the last one arrives.
    func turn() {
        self.now = self.now + .milliseconds(1)
        let (upwards, downwards) = (self.upwards, self.downwards)
        self.upwards.removeAll(keepingCapacity: true)
        self.downwards.removeAll(keepingCapacity: true)
        self.messages += upwards.count + downwards.count
        for message in downwards { _ = self.initiator.receive(message, from: self.carrier, at: self.now) }
        for message in upwards {
            switch self.kind {
            case .stream: _ = self.responder.receive(message, from: self.carrier, at: self.now)
            case .datagrams: _ = self.responder.receive(datagram: message, from: self.route, at: self.now)
            }
        }
        if self.initiator.nextDeadline.map({ self.now >= $0 }) ?? false { self.initiator.handleDeadline(at: self.now) }
        if self.responder.nextDeadline.map({ self.now >= $0 }) ?? false { self.responder.handleDeadline(at: self.now) }
        while let event = self.initiator.nextEvent() {
            if case .connection(.readable(let id)) = event { self.answer(id) }
        }
        while let event = self.responder.nextEvent() {
            guard case .connection(_, let event) = event else { continue }
            switch event {
            case .readable(let id): self.readAnswer(id)
            case .writable(let id): self.write(id)
            default: break
            }
        }
        if self.hasShakenHands { self.open() }
        var message = ByteBuffer()
        while self.initiator.writeNext(into: &message, for: self.carrier, at: self.now) {
            self.upwards.append(message)
            message = ByteBuffer()
        }
        while self.writeDownwards(&message) {
            self.downwards.append(message)
            message = ByteBuffer()
        }
    }

    private var hasShakenHands: Bool { self.now.nanoseconds >= 1_100_000_000 }

    private func writeDownwards(_ message: inout ByteBuffer) -> Bool {
        switch self.kind {
        case .stream: self.responder.writeNext(into: &message, for: self.carrier, at: self.now)
        case .datagrams: self.responder.writeNextDatagram(into: &message, at: self.now) != nil
        }
    }

    // MARK: The sidecar's side

    private func open() {
        while self.opened < self.load.streams, self.opened - self.done < Load.atOnce,
            let id = self.responder.withConnection(of: self.key, { $0.openStream() }) ?? nil
        {
            self.opened += 1
            self.unwritten[id] = self.load.request
            self.write(id)
        }
    }

    private func write(_ id: StreamID) {
        self.responder.withConnection(of: self.key) { connection in
            while let left = self.unwritten[id] {
                var bytes = self.piece
                guard let part = bytes.readSlice(length: min(left, bytes.readableBytes)) else { return }
                let hasRoom = connection.write(part, to: id)
                self.unwritten[id] = left > part.readableBytes ? left - part.readableBytes : nil
                if self.unwritten[id] == nil { connection.finish(id) }
                if !hasRoom { return }
            }
        }
    }

    private func readAnswer(_ id: StreamID) {
        let isOver = self.responder.withConnection(of: self.key) { connection in
            while true {
                switch connection.read(id, atMost: 65_536) {
                case .bytes: continue
                case .nothing: return false
                case .end:
                    connection.release(id)
                    return true
                }
            }
        }
        if isOver ?? false { self.done += 1 }
    }

    // MARK: The workspace's side

    private func answer(_ id: StreamID) {
        self.initiator.withConnection { connection in
            while true {
                switch connection.read(id, atMost: 65_536) {
                case .bytes: continue
                case .nothing: return
                case .end:
                    if self.load.answer > 0 {
                        connection.write(ByteBuffer(repeating: 8, count: self.load.answer), to: id)
                    }
                    connection.finish(id)
                    return connection.release(id)
                }
            }
        }
    }
}
