import NIOCore

/// The fuzzer's bytes, taken one decision after the other. At their end there is nothing more to do.
struct Input {
    private var bytes: ByteBuffer

    init(_ bytes: UnsafeBufferPointer<UInt8>) { self.bytes = ByteBuffer(bytes: bytes) }

    mutating func byte() -> UInt8? { self.bytes.readInteger() }

    /// Two bytes of length, then as many as there are of these.
    mutating func piece() -> ByteBuffer? {
        guard let length: UInt16 = self.bytes.readInteger() else { return nil }
        return self.bytes.readSlice(length: min(Int(length), self.bytes.readableBytes))
    }
}

/// The same written, for the seeds.
struct Script {
    private(set) var bytes: [UInt8]

    init(_ setting: Setting) { self.bytes = [setting.rawValue] }

    mutating func add(_ operation: Operation, _ piece: [UInt8] = []) {
        self.bytes += [operation.rawValue, UInt8(piece.count >> 8 & 255), UInt8(piece.count & 255)] + piece
    }
}

/// The first byte: who is fed, and by which way the tunnel goes.
struct Setting: OptionSet {
    let rawValue: UInt8

    /// The workspace's half is fed; else the sidecar's.
    static let initiator = Setting(rawValue: 1)
    static let datagrams = Setting(rawValue: 2)
    /// A stranger feeds: no handshake comes before.
    static let stranger = Setting(rawValue: 4)
    /// In place of a tunnel, the decoders of what goes through it.
    static let decoders = Setting(rawValue: 8)
}

/// What the fuzzer may do, each followed by a piece.
enum Operation: UInt8, CaseIterable {
    /// The authenticated peer sends these frames.
    case frames
    /// The same, and some numbers are left out before: the first byte tells how many.
    case framesLater
    /// Bytes on the byte stream, in whatever pieces.
    case bytes
    /// One whole message.
    case message
    /// An honest message is changed: at which place, and the bytes to be xored there.
    case tampered
    /// A message with a right mac1: what is before it.
    case initiation
    /// An initiation of the peer's key with these parameters, or the response with them.
    case parameters
    /// Time passes: an exponent for each byte.
    case time
    /// The application does something: a verb for each byte.
    case application
    /// The carrier ends, and another comes.
    case carrier
}
