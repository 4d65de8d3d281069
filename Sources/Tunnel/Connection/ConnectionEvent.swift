public import struct NIOCore.ByteBuffer

/// Whether the peer answers (PROTOCOL, liveness).
public enum Presence: Sendable {
    case live
    /// An ack-eliciting message has been unacknowledged for a third of `dead_after`.
    case suspected
    /// Nothing was acknowledged for `dead_after`, or within a second of the end of the byte stream beside the datagrams, or
    /// the responder has had no carrier for a second.
    case gone
}

/// What a connection reports to its owner. Events are pulled, so that no callback runs in the middle of a change.
public enum ConnectionEvent: Equatable, Sendable {
    case streamOpened(StreamID)
    /// `read` returns bytes or the end.
    case readable(StreamID)
    /// There is room again after a `write` that said there was none.
    case writable(StreamID)
    /// The peer reset its direction. Bytes not read yet are gone, but those before a TCP reset can still be read.
    case reset(StreamID, StreamErrorCode)
    /// The peer sent STOP_SENDING: our direction has been reset with the same code.
    case stopped(StreamID, StreamErrorCode)
    /// Datagrams have come: `nextDatagram` takes them.
    case datagramsReadable
    /// The peer has acknowledged a datagram that was sent with `isTracked`.
    case datagramAcknowledged(DatagramID)
    /// For the first time, an urgent byte was dropped because the peer takes no urgent data.
    case urgentLeftOut
    case presence(Presence)
    /// The connection is over and all its streams with it.
    case ended(ConnectionEnd)
}

/// What `read` returns.
public enum StreamRead: Equatable, Sendable {
    case bytes(ByteBuffer)
    /// All bytes were read, and the peer has ended its direction.
    case end
    case nothing
}

extension ConnectionEvent {
    var isReadable: Bool { if case .readable = self { true } else { false } }
}
