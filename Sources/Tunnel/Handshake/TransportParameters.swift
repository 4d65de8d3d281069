import NIOCore

/// What each side tells the other in its handshake message (RFC 9000 §18 for the encoding).
struct TransportParameters: Equatable {
    var initialMaxData: UInt64 = 0
    var initialMaxStreamData: UInt64 = 0
    var initialMaxStreams: UInt64 = 0
    var maxDatagramFrameSize: UInt64 = 0
    var connectionID: ConnectionID
    var maxMessageSize = Constants.defaultMaxMessageSize
    var deadAfter = Constants.defaultDeadAfter
    var takesUrgent = false

    fileprivate enum Identifier: UInt64 {
        case padding = 0x00
        case initialMaxData = 0x04
        case initialMaxStreamData = 0x05
        case initialMaxStreams = 0x08
        case maxDatagramFrameSize = 0x20
        case connectionID = 0x6b01
        case maxMessageSize = 0x6b02
        case deadAfter = 0x6b03
        case urgent = 0x6b04
    }

    init(connectionID: ConnectionID) { self.connectionID = connectionID }

    /// nil: something is malformed, repeated, out of its limits or missing, and the handshake message is dropped.
    init?(reading bytes: inout ByteBuffer) {
        self.init(connectionID: ConnectionID(rawValue: 0))
        // One bit for each known identifier: unknown ones may repeat, known ones may not.
        var seen: UInt16 = 0
        while bytes.readableBytes > 0 {
            guard let identifier = bytes.readVarInt(), let length = bytes.readVarInt(),
                length <= UInt64(bytes.readableBytes), var value = bytes.readSlice(length: Int(length))
            else { return nil }
            guard let known = Identifier(rawValue: identifier), known != .padding else { continue }
            let bit: UInt16 = 1 << known.ordinal
            guard seen & bit == 0 else { return nil }
            seen |= bit
            if known == .connectionID {
                guard value.readableBytes == 8, let id: UInt64 = value.readInteger() else { return nil }
                self.connectionID = ConnectionID(rawValue: id)
                continue
            }
            guard let number = value.readVarInt(), value.readableBytes == 0, self.set(known, number) else {
                return nil
            }
        }
        guard seen & (1 << Identifier.connectionID.ordinal) != 0, self.initialMaxStreamData >= Constants.minStreamData
        else { return nil }
    }

    private mutating func set(_ identifier: Identifier, _ value: UInt64) -> Bool {
        switch identifier {
        case .initialMaxData: self.initialMaxData = value
        case .initialMaxStreamData: self.initialMaxStreamData = value
        case .initialMaxStreams:
            guard value <= Constants.greatestStreamCount else { return false }
            self.initialMaxStreams = value
        case .maxDatagramFrameSize: self.maxDatagramFrameSize = value
        case .maxMessageSize:
            guard value >= UInt64(Constants.maxMessageSizes.lowerBound) else { return false }
            self.maxMessageSize = Int(min(value, UInt64(Constants.maxMessageSizes.upperBound)))
        case .deadAfter:
            let least = UInt64(Constants.deadAfterAtLeast.nanoseconds / 1_000_000)
            guard value >= least else { return false }
            self.deadAfter = .milliseconds(Int64(min(value, 86_400_000)))
        case .urgent: self.takesUrgent = value > 0
        case .padding, .connectionID: break
        }
        return true
    }

    func write(into bytes: inout ByteBuffer) {
        func number(_ identifier: Identifier, _ value: UInt64) {
            bytes.writeVarInt(identifier.rawValue)
            bytes.writeVarInt(UInt64(VarInt.byteCount(value)))
            bytes.writeVarInt(value)
        }
        number(.initialMaxData, self.initialMaxData)
        number(.initialMaxStreamData, self.initialMaxStreamData)
        number(.initialMaxStreams, self.initialMaxStreams)
        if self.maxDatagramFrameSize > 0 { number(.maxDatagramFrameSize, self.maxDatagramFrameSize) }
        bytes.writeVarInt(Identifier.connectionID.rawValue)
        bytes.writeVarInt(8)
        bytes.writeInteger(self.connectionID.rawValue)
        number(.maxMessageSize, UInt64(self.maxMessageSize))
        number(.deadAfter, UInt64(max(0, self.deadAfter.nanoseconds / 1_000_000)))
        if self.takesUrgent { number(.urgent, 1) }
    }

    /// Writes padding parameters of `count` bytes in all. A single byte can't be a parameter and is left out.
    static func writePadding(_ count: Int, into bytes: inout ByteBuffer) {
        var left = count
        while left >= 2 {
            // Never leave one byte over: it could not be a parameter.
            let value = left == 66 ? 62 : min(left - 2, 63)
            bytes.writeVarInt(Identifier.padding.rawValue)
            bytes.writeVarInt(UInt64(value))
            bytes.writeRepeatingByte(0, count: value)
            left -= 2 + value
        }
    }
}

extension TransportParameters.Identifier {
    fileprivate var ordinal: UInt8 {
        switch self {
        case .padding: 0
        case .initialMaxData: 1
        case .initialMaxStreamData: 2
        case .initialMaxStreams: 3
        case .maxDatagramFrameSize: 4
        case .connectionID: 5
        case .maxMessageSize: 6
        case .deadAfter: 7
        case .urgent: 8
        }
    }
}
