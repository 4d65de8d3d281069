import NIOCore
import Noise
import Tunnel

/// An attacker on the path: it records messages and hands them in again, changed or not.
///
/// It knows the public keys of all ends, so its forgeries carry a right mac1; it knows no other key.
final class Attacker {
    private enum Expectation {
        /// A forged message: it must be dropped and change nothing.
        case dropped
        /// A genuine message, which may not have arrived yet.
        case anything
    }

    private unowned let world: World
    private let random: SeededRandom
    /// On average, one message in this many is preceded by one of the attacker's.
    private let rarity: Int
    private var seen: [ByteBuffer] = []
    private var next = 0
    /// The index in each end's latest initiation, which a forged response has to name.
    private var waiting: [ObjectIdentifier: UInt32] = [:]
    private(set) var handedIn = 0

    private static let kept = 48
    private static let macs = 32

    init(_ world: World, rarity: Int) {
        self.world = world
        self.random = world.random.fork()
        self.rarity = rarity
    }

    func saw(_ message: ByteBuffer, by end: End) {
        if message.messageType == 1 {
            self.waiting[ObjectIdentifier(end)] = message.getInteger(at: message.readerIndex + 4, endianness: .little)
        }
        guard message.messageType != 4 || self.random.isOne(in: 8) else { return }
        // A copy, since the buffer that it was cut from is reused.
        let copy = ByteBuffer(bytes: message.readableBytesView)
        if self.seen.count < Self.kept {
            self.seen.append(copy)
        } else {
            self.seen[self.next % Self.kept] = copy
            self.next += 1
        }
    }

    /// A message for a stranger to send on a carrier of its own.
    func anything(for end: ResponderEnd) -> ByteBuffer {
        self.random.isOne(in: 2) ? (self.recorded() ?? self.garbage()) : self.forged(nil, at: end).message
    }

    func precede(_ message: ByteBuffer, at end: End, on attachment: Attachment) throws(SimulationFailure) {
        guard !self.world.isSettling, self.random.isOne(in: self.rarity) else { return }
        let (forgery, expectation) = self.forged(message, at: end)
        let isTaken = try self.handIn(forgery, expectation, at: end) { _ throws(SimulationFailure) in
            guard end.attachments.contains(where: { $0 === attachment }) else { return nil }
            return end.take(forgery, from: attachment.id)
        }
        guard isTaken else { return }
        attachment.hasTaken = true
        attachment.framer.open()
    }

    /// The same with datagrams. The attacker can forge the responder's address, which is all that an initiator's socket
    /// checks.
    func precede(_ message: ByteBuffer, at end: InitiatorEnd, onSocket id: CarrierID) throws(SimulationFailure) {
        guard !self.world.isSettling, self.random.isOne(in: self.rarity) else { return }
        let (forgery, expectation) = self.forged(message, at: end)
        try self.handIn(forgery, expectation, at: end) { _ throws(SimulationFailure) in
            end.isHeld(id) ? end.take(forgery, from: id) : nil
        }
    }

    /// The same at the responder, from an address of the attacker's choice.
    func precede(_ message: ByteBuffer, at end: ResponderEnd, from address: PathAddress) throws(SimulationFailure) {
        guard !self.world.isSettling, self.random.isOne(in: self.rarity) else { return }
        let (forgery, expectation) = self.forged(message, at: end)
        let source = self.random.isOne(in: 3) ? address : self.address()
        try self.handIn(forgery, expectation, at: end) { _ throws(SimulationFailure) in
            try end.take(forgery, from: source)
        }
    }

    /// One of a few addresses where no end listens.
    func address() -> PathAddress {
        let address = PathAddress(ipv4: 0xcb00_7100 | UInt32(self.random.between(0...7)), port: 4_444)
        self.world.watch?.isHostile(address)
        return address
    }

    /// Sends initiations with a right mac1 that don't open, from many addresses, all at once.
    func flood(_ responder: ResponderEnd, _ count: Int) {
        for _ in 0..<count {
            let address = PathAddress(ipv4: 0xc633_6400 | UInt32(self.random.between(0...255)), port: 4_444)
            self.world.sayToResponder(self.forgedInitiation(to: responder, size: 1_200), from: address)
        }
    }

    /// Returns whether the end took the message.
    @discardableResult
    private func handIn(
        _ message: ByteBuffer,
        _ expectation: Expectation,
        at end: End,
        _ take: (ByteBuffer) throws(SimulationFailure) -> MessageVerdict?
    ) throws(SimulationFailure) -> Bool {
        // Changes that are due by time happen before the digest is taken.
        end.handleDeadline()
        try end.deliverEvents()
        let digest = end.digest
        let connectionDigest = end.connectionDigest
        guard let verdict = try take(message) else { return false }
        self.handedIn += 1
        if case .dropped(let reason) = verdict {
            // A genuine response may come too late. It opens, and so ends a waiting handshake.
            if reason == .staleResponse, expectation == .anything { return false }
            try self.world.check(
                end.digest == digest,
                "\(end.name): a message of type \(message.messageType) was dropped, \(reason.label), and changed something"
            )
            return false
        }
        try self.world.check(
            expectation == .anything,
            "\(end.name): a forged message of type \(message.messageType) was taken, \(message.readableBytes) bytes, \(verdict)"
        )
        if message.messageType == 1 {
            try self.world.check(end.connectionDigest == connectionDigest, "an initiation alone changed a connection")
        }
        return true
    }

    // MARK: Forgeries

    /// A message that was corrupted on its way and is then changed again may be a genuine one.
    private func forged(_ message: ByteBuffer?, at end: End) -> (message: ByteBuffer, Expectation) {
        let (forgery, expectation) = self.made(of: message, at: end)
        return (forgery, self.seen.contains(forgery) ? .anything : expectation)
    }

    private func made(of message: ByteBuffer?, at end: End) -> (message: ByteBuffer, Expectation) {
        switch self.random.between(0...9) {
        case 0: return (self.garbage(), .dropped)
        case 1: return (message ?? self.garbage(), .anything)
        case 2: return (self.recorded() ?? self.garbage(), .anything)
        case 3:
            guard let response = self.forgedResponse(to: end) else { return (self.garbage(), .dropped) }
            return (response, .dropped)
        case 4: return (self.forgedInitiation(to: end, size: self.random.isOne(in: 2) ? 1_200 : nil), .dropped)
        case 5, 6: return (self.withOtherHeader(message ?? self.recorded() ?? self.garbage()), .dropped)
        case 7: return (self.withOtherLength(message ?? self.recorded() ?? self.garbage()), .dropped)
        default: return (self.withOtherBit(message ?? self.recorded() ?? self.garbage()), .dropped)
        }
    }

    private func recorded() -> ByteBuffer? { self.seen.isEmpty ? nil : self.random.pick(self.seen) }

    private func garbage() -> ByteBuffer {
        var bytes = ByteBuffer()
        if self.random.isOne(in: 2) {
            bytes.writeInteger(UInt32(self.random.between(0...5)), endianness: .little)
        }
        bytes.writeRandomBytes(self.random.logarithmic(1...2_000), self.random)
        return bytes
    }

    /// mac2 isn't checked on byte streams, so a change there makes no forgery.
    private func withOtherBit(_ message: ByteBuffer) -> ByteBuffer {
        var bytes = message
        let unchecked = message.messageType == 4 ? 0 : 16
        guard bytes.readableBytes > unchecked else { return self.garbage() }
        let at = bytes.readerIndex + self.random.between(0...bytes.readableBytes - unchecked - 1)
        let byte: UInt8 = bytes.getInteger(at: at) ?? 0
        bytes.setInteger(byte ^ UInt8(1 << self.random.between(0...7)), at: at)
        return bytes
    }

    private func withOtherHeader(_ message: ByteBuffer) -> ByteBuffer {
        var bytes = message
        guard bytes.readableBytes >= 16 else { return self.garbage() }
        let at = bytes.readerIndex + (message.messageType == 4 ? self.random.between(4...8) : 4)
        let word: UInt32 = bytes.getInteger(at: at) ?? 0
        bytes.setInteger(word ^ UInt32(truncatingIfNeeded: self.random.next() | 1), at: at)
        return bytes
    }

    private func withOtherLength(_ message: ByteBuffer) -> ByteBuffer {
        var bytes = message
        if self.random.isOne(in: 2) {
            bytes.writeRandomBytes(self.random.between(1...40), self.random)
            return bytes
        }
        let count = self.random.between(0...max(0, bytes.readableBytes - 1))
        return bytes.readSlice(length: count) ?? self.garbage()
    }

    private func forgedResponse(to end: End) -> ByteBuffer? {
        guard let end = end as? InitiatorEnd, let index = self.waiting[ObjectIdentifier(end)] else { return nil }
        var bytes = ByteBuffer()
        bytes.writeInteger(UInt32(2), endianness: .little)
        bytes.writeInteger(UInt32(truncatingIfNeeded: self.random.next()), endianness: .little)
        bytes.writeInteger(index, endianness: .little)
        bytes.writeRandomBytes(self.random.between(32 + 16...300), self.random)
        return self.withMacs(bytes, to: end.key)
    }

    /// Either random bytes, or a genuine initiation with one bit changed; both with a right mac1.
    private func forgedInitiation(to end: End, size: Int? = nil) -> ByteBuffer {
        guard let end = end as? ResponderEnd else { return self.garbage() }
        let genuine = self.seen.last { $0.messageType == 1 }
        if let genuine, size == nil || genuine.readableBytes == size, self.random.isOne(in: 2) {
            var body = genuine
            guard let covered = body.readSlice(length: genuine.readableBytes - Self.macs) else { return genuine }
            var bytes = ByteBuffer(bytes: covered.readableBytesView)
            // Not the index, which only mac1 covers.
            let at = self.random.between(8...bytes.readableBytes - 1)
            let byte: UInt8 = bytes.getInteger(at: at) ?? 0
            // The top bit of a public key is ignored by Curve25519, but not by the hash.
            bytes.setInteger(byte ^ UInt8(1 << self.random.between(0...7)), at: at)
            return self.withMacs(bytes, to: end.staticKey.publicKey)
        }
        var bytes = ByteBuffer()
        bytes.writeInteger(UInt32(1), endianness: .little)
        let length = size ?? self.random.between(256...1_200)
        bytes.writeRandomBytes(length - Self.macs - 4, self.random)
        return self.withMacs(bytes, to: end.staticKey.publicKey)
    }

    private func withMacs(_ message: ByteBuffer, to receiver: PublicKey) -> ByteBuffer {
        var bytes = message
        let mac1 = MacKey(receiver: receiver).mac(bytes.readableBytesSpan)
        bytes.writeWithOutputRawSpan(minimumWritableBytes: 16) { mac1.write(into: &$0) }
        bytes.writeRepeatingByte(0, count: 16)
        return bytes
    }
}

extension ByteBuffer {
    var messageType: UInt8 { self.getInteger(at: self.readerIndex) ?? 0 }

    mutating func writeRandomBytes(_ count: Int, _ random: SeededRandom) {
        for _ in 0..<count { self.writeInteger(UInt8(truncatingIfNeeded: random.next())) }
    }
}
