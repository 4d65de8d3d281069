import InterceptProtocol
import NIOCore

extension ByteBuffer {
    /// As it comes on stream 0.
    static func control(_ json: String) -> ByteBuffer {
        var bytes = ByteBuffer()
        bytes.writeInteger(UInt32(json.utf8.count))
        bytes.writeString(json)
        return bytes
    }

    static func control(_ message: ControlMessage) -> ByteBuffer {
        var bytes = ByteBuffer()
        message.encode(into: &bytes)
        return bytes
    }
}

/// The first message of `json`, as the decoder has it.
func decode(_ json: String) throws(ControlError) -> ControlMessageDecoder.Next {
    var decoder = ControlMessageDecoder()
    decoder.append(.control(json))
    return try decoder.next()
}

/// SplitMix64: a failing seed reruns exactly.
struct Seeded: RandomNumberGenerator {
    var state: UInt64

    init(_ seed: UInt64) { self.state = seed }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = self.state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
