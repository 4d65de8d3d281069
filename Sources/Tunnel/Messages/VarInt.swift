import NIOCore

/// QUIC's variable-length integers, RFC 9000 §16: two bits say whether 1, 2, 4 or 8 bytes follow in all.
enum VarInt {
    static let max: UInt64 = (1 << 62) - 1

    static func byteCount(_ value: UInt64) -> Int {
        switch value {
        case 0..<(1 << 6): 1
        case (1 << 6)..<(1 << 14): 2
        case (1 << 14)..<(1 << 30): 4
        default: 8
        }
    }
}

extension ByteBuffer {
    /// Values above 2^62 − 1 can't be written; this module writes none.
    mutating func writeVarInt(_ value: UInt64) {
        self.writeWithOutputRawSpan(minimumWritableBytes: 8) { $0.appendVarInt(value) }
    }

    /// nil, and nothing read, when the bytes end too soon.
    mutating func readVarInt() -> UInt64? {
        var count = 0
        guard let value = self.readableBytesSpan.varInt(at: &count) else { return nil }
        self.moveReaderIndex(forwardBy: count)
        return value
    }
}

extension RawSpan {
    /// Reads the varint at this offset, and moves the offset behind it. nil, and the offset stays, when the bytes end too
    /// soon.
    func varInt(at offset: inout Int) -> UInt64? {
        guard offset < self.byteCount else { return nil }
        let first = self.unsafeLoad(fromByteOffset: offset, as: UInt8.self)
        let count = 1 << Int(first >> 6)
        guard count <= self.byteCount - offset else { return nil }
        defer { offset += count }
        return switch count {
        case 1: UInt64(first)
        case 2: UInt64(UInt16(bigEndian: self.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt16.self)) & 0x3fff)
        case 4:
            UInt64(UInt32(bigEndian: self.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt32.self)) & 0x3fff_ffff)
        default: UInt64(bigEndian: self.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self)) & VarInt.max
        }
    }
}

extension OutputRawSpan {
    /// Like `writeVarInt`, but without making room, so that one reservation serves several varints.
    @inline(__always)
    mutating func appendVarInt(_ value: UInt64) {
        switch VarInt.byteCount(value) {
        case 1: self.append(UInt8(truncatingIfNeeded: value))
        case 2: self.append((UInt16(truncatingIfNeeded: value) | 0x4000).bigEndian, as: UInt16.self)
        case 4: self.append((UInt32(truncatingIfNeeded: value) | 0x8000_0000).bigEndian, as: UInt32.self)
        default: self.append((Swift.min(value, VarInt.max) | 0xc000_0000_0000_0000).bigEndian, as: UInt64.self)
        }
    }
}
