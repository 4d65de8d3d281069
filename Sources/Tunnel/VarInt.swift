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
    /// Values above 2^62 − 1 can't be written; all that this module writes are below.
    mutating func writeVarInt(_ value: UInt64) {
        switch VarInt.byteCount(value) {
        case 1: self.writeInteger(UInt8(truncatingIfNeeded: value))
        case 2: self.writeInteger(UInt16(truncatingIfNeeded: value) | 0x4000)
        case 4: self.writeInteger(UInt32(truncatingIfNeeded: value) | 0x8000_0000)
        default: self.writeInteger(Swift.min(value, VarInt.max) | 0xc000_0000_0000_0000)
        }
    }

    /// Always two bytes, for a length that is filled in once what it counts has been written.
    mutating func setVarInt2(_ value: Int, at index: Int) {
        self.setInteger(UInt16(truncatingIfNeeded: value) & 0x3fff | 0x4000, at: index)
    }

    /// nil, and nothing read, when the bytes end too soon.
    mutating func readVarInt() -> UInt64? {
        guard let first: UInt8 = self.getInteger(at: self.readerIndex) else { return nil }
        switch first >> 6 {
        case 0:
            self.moveReaderIndex(forwardBy: 1)
            return UInt64(first)
        case 1: return self.readInteger(as: UInt16.self).map { UInt64($0 & 0x3fff) }
        case 2: return self.readInteger(as: UInt32.self).map { UInt64($0 & 0x3fff_ffff) }
        default: return self.readInteger(as: UInt64.self).map { $0 & VarInt.max }
        }
    }
}
