import Libc
public import NIOCore
public import Tunnel

/// Finds TCP's urgent bytes in what a socket reads, and records their offsets, so that handlers that keep the bytes can find
/// them later.
///
/// It relies on this behaviour, as seen on Linux 6.18:
///
/// | | |
/// |---|---|
/// | SO_OOBINLINE (`SocketOptions` sets it) | the byte stays in its place, and makes the socket readable |
/// | a read that has taken something | stops before the urgent byte |
/// | sockatmark(3) | says whether that byte is the next one |
/// | a newer urgent byte, while the older is unread | the older one is an ordinary byte from then on |
///
/// So asking before a read tells whether that read begins with the urgent byte. NIO asks its allocator for a buffer's size
/// just before each read, and there the question is asked. Asking takes 0.2 µs; sending and reading 64 bytes takes 4.7 µs.
///
/// An urgent byte is missed in one case: the socket was empty when the question was asked, and the byte came before the read.
/// NIO reads from an empty socket only after a read that filled its buffer.
///
/// `Sendable`, since NIO requires that of an allocator. `@unchecked` is safe: this is used only on the channel's event loop,
/// where NIO reads and where the handlers run.
public final class UrgentInput: @unchecked Sendable {
    /// The channel's descriptor, which is open whenever the channel reads; -1: there is none, or it isn't TCP. The channel
    /// itself isn't kept: it owns the allocator, and so this object.
    private let descriptor: CInt
    private var isAtMark = false
    private var received: UInt64 = 0
    private var marks = UrgentMarks()

    public enum Piece {
        case bytes(ByteBuffer)
        case urgent(UInt8)
    }

    /// Create it before anything is read from the channel, whose socket must have the `SocketOptions`.
    ///
    /// - Parameter most: how much is read at once.
    public init(_ channel: any Channel, readAtMost most: Int = 64 * 1_024) {
        self.descriptor = channel.descriptor ?? -1
        guard self.descriptor >= 0 else { return }
        self.use(AdaptiveRecvByteBufferAllocator(minimum: 64, initial: 2_048, maximum: most), on: channel)
    }

    /// Makes the channel read on with an allocator like this one.
    func use(_ allocator: some RecvByteBufferAllocator, on channel: any Channel) {
        guard self.descriptor >= 0 else {
            try? channel.syncOptions?.setOption(.recvAllocator, value: allocator)
            return
        }
        let marking = MarkingAllocator(base: allocator, input: self)
        try? channel.syncOptions?.setOption(.recvAllocator, value: marking)
    }

    fileprivate func willRead() { self.isAtMark = sockatmark(self.descriptor) == 1 }

    fileprivate func hasRead(_ count: Int) {
        if self.isAtMark { self.marks.insert(self.received) }
        self.received += UInt64(count)
    }

    /// Whether there are urgent bytes in what was read since `forgetMarks`.
    public var hasMarks: Bool { !self.marks.isEmpty }

    /// The offset of bytes that a handler has just received.
    public func offset(ofNew bytes: ByteBuffer) -> UInt64 {
        self.received - min(self.received, UInt64(bytes.readableBytes))
    }

    /// Called when all that was read has been passed on.
    public func forgetMarks() { self.marks.removeAll() }

    /// Splits bytes that were read at the urgent ones.
    ///
    /// - Parameter offset: how many bytes were read before these.
    public func forEachPiece(of bytes: ByteBuffer, at offset: UInt64, _ body: (Piece) -> Void) {
        var bytes = bytes
        var offset = offset
        while bytes.readableBytes > 0 {
            let mark = self.marks.first(from: offset) ?? .max
            if mark == offset {
                if let byte: UInt8 = bytes.readInteger() { body(.urgent(byte)) }
                offset += 1
            } else {
                let count = min(bytes.readableBytes, Int(clamping: mark - offset))
                if let piece = bytes.readSlice(length: count) { body(.bytes(piece)) }
                offset += UInt64(count)
            }
        }
    }
}

/// Checks for the urgent byte when NIO is about to read.
private struct MarkingAllocator<Base: RecvByteBufferAllocator>: RecvByteBufferAllocator {
    var base: Base
    let input: UrgentInput

    func buffer(allocator: ByteBufferAllocator) -> ByteBuffer { self.base.buffer(allocator: allocator) }

    func nextBufferSize() -> Int? {
        self.input.willRead()
        return self.base.nextBufferSize()
    }

    mutating func record(actualReadBytes: Int) -> Bool {
        self.input.hasRead(actualReadBytes)
        return self.base.record(actualReadBytes: actualReadBytes)
    }
}

extension Connection {
    /// Queues bytes from a socket, with its urgent bytes as such.
    ///
    /// - Parameter offset: how many bytes the socket gave before these.
    @discardableResult
    public mutating func write(
        _ bytes: ByteBuffer,
        at offset: UInt64,
        of input: UrgentInput,
        to id: StreamID
    ) -> Bool {
        guard input.hasMarks else { return self.write(bytes, to: id) }
        var hasRoom = true
        input.forEachPiece(of: bytes, at: offset) { piece in
            switch piece {
            case .bytes(let bytes): hasRoom = self.write(bytes, to: id)
            case .urgent(let byte): hasRoom = self.writeUrgent(byte, to: id)
            }
        }
        return hasRoom
    }
}
