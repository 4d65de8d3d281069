public import NIOCore
public import Tunnel

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Finds TCP's urgent bytes in what a socket gives, by their places: whoever keeps what was read finds them there later.
///
/// What it relies on, as seen on Linux 6.18:
///
/// | | |
/// |---|---|
/// | SO_OOBINLINE (`BridgedSocket` sets it) | the byte stays in its place, and makes the socket readable |
/// | a read that has taken something | stops before the urgent byte |
/// | sockatmark(3) | says whether that byte is the next one |
/// | a newer urgent byte, while the older is unread | the older one is an ordinary byte from then on |
///
/// So the question before a read tells whether that read begins with the urgent byte. NIO asks its allocator for a buffer's
/// size just before the read, and that is where the question is put. It takes 0.2 µs; sending and reading 64 bytes takes 4.7.
/// Only a byte that comes between the question and a read that would have found nothing isn't recognized; NIO makes such a
/// read only behind one that has filled its buffer.
///
/// Sendable, since NIO wants that of an allocator. Unchecked is safe: it is touched on the channel's event loop alone, where NIO
/// reads and where the handlers are.
public final class UrgentInput: @unchecked Sendable {
    /// The channel's, which is open whenever it reads; -1: none, or not TCP's. The channel itself isn't kept: it has the
    /// allocator, and so this.
    private let descriptor: CInt
    private var isAtMark = false
    private var received: UInt64 = 0
    private var marks = UrgentMarks()

    public enum Piece {
        case bytes(ByteBuffer)
        case urgent(UInt8)
    }

    /// Before anything is read of the channel, whose socket is a `BridgedSocket`.
    public init(_ channel: any Channel) {
        self.descriptor = channel.descriptor ?? -1
        if self.descriptor >= 0 { self.use(AdaptiveRecvByteBufferAllocator(), on: channel) }
    }

    /// The channel reads on with an allocator like this.
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

    /// Whether there are urgent bytes in what was read, as far as it hasn't been forgotten.
    public var hasMarks: Bool { !self.marks.isEmpty }

    /// Where bytes are that a handler is just given.
    public func offset(ofNew bytes: ByteBuffer) -> UInt64 {
        self.received - min(self.received, UInt64(bytes.readableBytes))
    }

    /// What was read is given away for good.
    public func forgetMarks() { self.marks.removeAll() }

    /// Takes bytes that were read apart at the urgent ones.
    ///
    /// - Parameter offset: how many bytes were read before them.
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

/// Looks for the urgent byte when NIO is about to read.
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
    /// Queues what a socket gave, its urgent bytes as such.
    ///
    /// - Parameter offset: how many bytes the socket gave before.
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
