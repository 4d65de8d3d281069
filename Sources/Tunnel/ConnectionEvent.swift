public import struct NIOCore.ByteBuffer

/// Whether the peer answers (PROTOCOL, liveness).
public enum Presence: Sendable {
    case live
    /// Something that must be acknowledged hasn't been for a third of `dead_after`.
    case suspected
    /// Nothing was acknowledged for `dead_after`, or there has been no carrier for a second.
    case gone
}

/// What a connection has to tell its owner. Pulled, so that nothing is called back in the middle of a change.
public enum ConnectionEvent: Equatable, Sendable {
    case streamOpened(StreamID)
    /// Bytes or the end can be taken.
    case readable(StreamID)
    /// There is room again after a `write` that said there was none.
    case writable(StreamID)
    /// The peer gave its direction up: what it sent and we didn't take is gone.
    case reset(StreamID, StreamErrorCode)
    /// The peer wants nothing more of our direction, which has been reset with the same code.
    case stopped(StreamID, StreamErrorCode)
    /// Some have come: `nextDatagram` takes them.
    case datagramsReadable
    /// The peer has one that was sent with `isTracked`.
    case datagramAcknowledged(DatagramID)
    /// The first urgent byte that the peer wasn't told, since it doesn't know such bytes.
    case urgentLeftOut
    case presence(Presence)
    /// The connection is over and all its streams with it.
    case ended(ConnectionEnd)
}

/// What taking bytes from a stream gave.
public enum StreamRead: Equatable, Sendable {
    case bytes(ByteBuffer)
    /// All was taken, and the peer said that this is all.
    case end
    case nothing
}

extension ConnectionEvent {
    var isReadable: Bool { if case .readable = self { true } else { false } }
}
