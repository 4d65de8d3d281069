import Carriers
import InterceptModel
import InterceptProtocol
import NIOCore
import Tunnel

/// The copy of what one client sends, on its way to one mirror: a stream with the client's header and bytes.
///
/// A `MirrorTap` gives the copy everything that the client sends, in order, and never waits for it. A copy that can't keep up
/// is reset, so a mirror's local server sees all bytes, or a connection that breaks off.
///
/// ```
///   open ── the client's FIN, or any other end ──▶ ending ── all written ──▶ ended: FIN ── the workspace's end ──▶ over
///    │                                               └────────────────────────────── reset behind the bytes ────────▶ over
///    └── behind: reset with code 2; no such server at the workspace, its server's reset: reset ─────────────────────▶ over
/// ```
final class MirrorCopy<Access: ConnectionAccess> {
    enum Ending: Equatable {
        case fin
        case reset
    }

    private enum State: Equatable {
        case open
        case ending(Ending)
        /// The FIN is written.
        case ended
        case over
    }

    private unowned let copies: MirrorCopies<Access>
    let number: UInt64
    /// The service's.
    let port: ServicePort
    private(set) var stream: StreamID?
    private var state = State.open
    private var pending = PendingBytes()
    private let headerSize: Int
    /// How many of the written bytes were unacknowledged when the tunnel was last asked.
    private var unacknowledged = 0
    /// The copy is in the queue of `copies`.
    var isQueued = false
    private var isAnswered = false
    /// The workspace's direction has ended: its local server says no more.
    private var peerHasEnded = false

    /// - Parameter header: what the stream begins with, before the client's bytes.
    init(_ header: ByteBuffer, of port: ServicePort, number: UInt64, for copies: MirrorCopies<Access>) {
        self.port = port
        self.copies = copies
        self.number = number
        self.headerSize = header.readableBytes
        self.pending.append(header)
    }

    var isOver: Bool { self.state == .over }

    /// The memory kept alive by bytes that aren't written yet.
    var pendingCapacity: Int { self.pending.capacity }

    // MARK: From the client

    func take(_ bytes: ByteBuffer) {
        guard self.state == .open, bytes.readableBytes > 0 else { return }
        let before = self.pending.capacity
        self.pending.append(bytes)
        self.copies.keep(self.pending.capacity - before)
        if self.hasRoom, self.copies.hasRoom { self.copies.enqueue(self) } else { self.isBehind() }
    }

    /// The client's connection has ended: no more bytes come.
    func end(_ ending: Ending) {
        guard self.state == .open else { return }
        self.state = .ending(ending)
        self.copies.enqueue(self)
    }

    /// Asks the tunnel again how much is unacknowledged only if the last answer leaves no room.
    private var hasRoom: Bool {
        if self.pending.capacity + self.unacknowledged <= MirrorLimits.copy { return true }
        guard let stream else { return false }
        self.unacknowledged = self.copies.withConnection { $0.backlog(stream).unacknowledged } ?? 0
        return self.pending.capacity + self.unacknowledged <= MirrorLimits.copy
    }

    // MARK: To the workspace

    struct Written {
        /// How many of the client's bytes were written.
        var count = 0
        var next = Next.nothing

        enum Next {
            case nothing
            case goOn
            /// Go on once the stream is writable: until then its bytes wait for the workspace's credit.
            case wait
            /// The workspace grants no stream.
            case noStream
            /// All is written, and the stream needs nothing more.
            case release(StreamID)
        }
    }

    /// Writes a share of what is pending, once all that was written before is sent.
    func write(to connection: inout Connection, atMost: Int) -> Written {
        var written = Written()
        let isNew = self.stream == nil
        guard let stream = self.stream ?? connection.openStream() else {
            written.next = .noStream
            return written
        }
        self.stream = stream
        let isSent = connection.backlog(stream).unsent == 0
        if isSent, connection.writableBytes(stream) > 0 {
            while written.count < atMost, let bytes = self.pending.popFirst() {
                written.count += bytes.readableBytes
                connection.write(bytes, to: stream)
            }
            if isNew { written.count -= self.headerSize }
        }
        self.unacknowledged = connection.backlog(stream).unacknowledged
        if self.pending.isEmpty {
            written.next = self.writeEnd(to: &connection, stream)
        } else {
            written.next = isSent ? .goOn : .wait
            connection.reportSending(stream)
        }
        return written
    }

    private func writeEnd(to connection: inout Connection, _ stream: StreamID) -> Written.Next {
        switch self.state {
        case .open, .ended, .over: return .nothing
        case .ending(.fin):
            connection.finish(stream)
            self.state = self.peerHasEnded ? .over : .ended
            return self.peerHasEnded ? .release(stream) : .nothing
        case .ending(.reset):
            // Both frames follow the bytes that were written.
            connection.reset(stream, .tcpReset)
            connection.stopSending(stream, .tcpReset)
            self.state = .over
            return .release(stream)
        }
    }

    // MARK: From the workspace

    /// Reads the answer, and then whatever else the workspace sends, which is discarded: that returns the credit.
    private func read(_ stream: StreamID) {
        while !self.isOver {
            switch self.copies.withConnection({ $0.read(stream, atMost: self.isAnswered ? .max : 1) }) ?? .nothing {
            case .bytes(let bytes):
                guard !self.isAnswered else { continue }
                self.isAnswered = true
                let answer: UInt8 = bytes.getInteger(at: bytes.readerIndex) ?? .max
                guard answer != Answer.connected.rawValue else { continue }
                return self.giveUp(Answer(rawValue: answer) == nil ? .tcpReset : .handedToOriginal)
            case .end:
                guard self.isAnswered else { return self.giveUp(.tcpReset) }
                self.peerHasEnded = true
                if self.state == .ended { self.finish() }
                return
            case .nothing: return
            }
        }
    }

    // MARK: Ends

    /// Both directions have ended.
    private func finish() {
        self.state = .over
        self.copies.isOver(self)
    }

    /// The workspace or the tunnel can't keep up. The copy breaks off, rather than lack bytes.
    func isBehind() {
        guard !self.isOver else { return }
        self.copies.behind += 1
        self.giveUp(.timedOut)
    }

    /// Bytes that aren't sent yet are discarded, except with `tcpReset`.
    func giveUp(_ code: StreamErrorCode) {
        guard !self.isOver else { return }
        self.state = .over
        self.copies.keep(-self.pending.capacity)
        self.pending.removeAll()
        if let stream {
            // Does nothing for a direction that is over.
            _ = self.copies.withConnection { connection in
                connection.reset(stream, code)
                connection.stopSending(stream, code)
            }
        }
        self.copies.isOver(self)
    }
}

extension MirrorCopy: StreamOwner {
    func streamIsReadable() { if let stream { self.read(stream) } }

    func streamIsWritable() {
        if !self.pending.isEmpty { self.copies.enqueue(self) }
        self.copies.write()
    }

    /// The stream's reset stands for the local server's reset of its connection.
    func streamWasReset(_ code: StreamErrorCode) { self.giveUp(.tcpReset) }

    func streamWasStopped(_ code: StreamErrorCode) { self.giveUp(.tcpReset) }

    func streamEnded() { self.giveUp(.tcpReset) }
}
