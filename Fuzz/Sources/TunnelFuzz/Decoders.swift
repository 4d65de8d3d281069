import NIOCore

@testable import InterceptProtocol

/// What goes through a tunnel, given to its decoders as it is, in pieces.
enum Decoders {
    static func run(_ input: inout Input) {
        var control = ControlMessageDecoder()
        var payloads = LengthPrefixedPayloads()
        while let which = input.byte(), let piece = input.piece() {
            switch which & 3 {
            case 0: Self.read(piece, &control)
            case 1:
                // With the length before it, so that what is tried is what is in it.
                var message = ByteBuffer()
                message.writeInteger(UInt32(piece.readableBytes))
                message.writeImmutableBuffer(piece)
                var decoder = ControlMessageDecoder()
                Self.read(message, &decoder)
            case 2:
                if case .datagram(let datagram) = FlowDatagram.parse(piece) {
                    precondition(FlowDatagram.parse(datagram.encoded) == .datagram(datagram), "not as it was written")
                }
                var bytes = piece
                _ = ConnectionHeader.parse(&bytes)
            default:
                payloads.append(piece)
                while payloads.next() != nil {}
            }
        }
    }

    private static func read(_ bytes: ByteBuffer, _ decoder: inout ControlMessageDecoder) {
        decoder.append(bytes)
        while let next = try? decoder.next(), next != .needsMore {
            guard case .message(let message) = next else { continue }
            var encoded = ByteBuffer()
            message.encode(into: &encoded)
        }
    }
}
