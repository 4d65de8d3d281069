import NIOCore
import Noise

@testable import Tunnel

/// Two ends that have shaken hands over a byte stream, one message handed over at a time.
struct Pair: ~Copyable {
    static let carrier = CarrierID(1)
    static let now = Instant(nanoseconds: 1_000_000_000)

    var initiator: Initiator
    var responder: Responder
    let key: PublicKey

    init(_ kind: CarrierKind = .stream) {
        let workspace = StaticKeyPair.generate()
        let sidecar = StaticKeyPair.generate()
        self.key = workspace.publicKey
        let configuration = Initiator.Configuration(staticKey: workspace, responder: sidecar.publicKey)
        self.initiator = Initiator(configuration, random: .system) { TAI64N(unixSeconds: 1, nanoseconds: 0) }
        self.responder = Responder(staticKey: sidecar, configuration: TunnelConfiguration(), random: .system)
        self.responder.accept(workspace.publicKey)
        self.initiator.carrierOpened(Self.carrier, at: Self.now)
        self.responder.carrierOpened(Self.carrier, kind, at: Self.now)
        for _ in 0..<3 {
            self.pass(.initiator, at: Self.now)
            self.pass(.responder, at: Self.now)
        }
        self.hear()
    }

    /// Hands one message of this end to the other. False: there was none.
    @discardableResult
    mutating func pass(_ sender: Role, over carrier: CarrierID = carrier, at now: Instant = now) -> Bool {
        var message = ByteBuffer()
        if sender == .initiator {
            guard self.initiator.writeNext(into: &message, for: carrier, at: now) else { return false }
            _ = self.responder.receive(message, from: carrier, at: now)
        } else {
            guard self.responder.writeNext(into: &message, for: carrier, at: now) else { return false }
            _ = self.initiator.receive(message, from: carrier, at: now)
        }
        return true
    }

    /// Hands all messages over, both ways, until there is none.
    mutating func passAll(over carrier: CarrierID = carrier, at now: Instant = now) {
        while self.pass(.responder, over: carrier, at: now) || self.pass(.initiator, over: carrier, at: now) {}
    }

    /// What happened so far is no news.
    private mutating func hear() { while self.responder.nextEvent() != nil {} }

    mutating func openStream() -> StreamID? { self.responder.withConnection(of: self.key) { $0.openStream() } ?? nil }

    mutating func write(_ bytes: ByteBuffer, to stream: StreamID) {
        _ = self.responder.withConnection(of: self.key) { $0.write(bytes, to: stream) }
    }
}
