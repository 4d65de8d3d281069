public import NIOCore
public import Tunnel

/// The largest read of SwiftNIO's adaptive allocator, and how many reads a turn of the loop makes at most if there is room. †
private let bridgedReadSize = 64 * 1_024
private let bridgedReadsAtMost = 4

/// Ties a socket to a stream: bytes, half-close, reset and back-pressure pass through both ways.
///
/// Added to the socket's pipeline as its last handler. It reads from the socket only while the stream has room, and from the
/// stream only while the socket is writable, so that a slow reader at one end slows the writer at the other, and no buffer
/// grows in between.
///
/// ```
///   waiting ── answer: open ──▶ open ── both directions done, or a reset ──▶ done
///      │                        └── the other socket was reset ──▶ resetting ──▶ done
///      ├── answer: refused; or none came, and nothing was sent ──▶ refused: the caller gets what was said
///      └── no valid answer; or none came, and bytes were sent ──▶ done, with a reset: no request runs twice
/// ```
///
/// The end that waits for the answer is the sidecar's. At the workspace's, which gives it, the first state is `open`. The
/// channel needs `autoRead` off and `allowRemoteHalfClosure` on.
public final class BridgedSocket<Access: ConnectionAccess>: ChannelInboundHandler, RemovableChannelHandler {
    public typealias InboundIn = ByteBuffer

    public enum End {
        /// The socket is closed.
        case done
        /// The peer won't serve the client, and no server has seen a byte. The socket is open, and has another handler.
        case refused(EarlyBytes)
    }

    private enum State {
        case waiting(AnswerWait<Access>)
        case open
        /// Resets this socket after the rest of the stream, once the socket at the other end was reset.
        case resetting(ResetBehindBytes)
        case done
    }

    private enum Incoming {
        case open
        /// The FIN was read.
        case closed
        case reset
    }

    private let access: Access
    private let stream: StreamID
    private let channel: any Channel
    private let input: UrgentInput
    private let rounds: KeepAliveRounds
    private var state = State.open
    /// Created with the first urgent byte for the socket.
    private var urgentOutput: UrgentOutput?
    private var incoming = Incoming.open
    private var output = SocketOutput.open
    /// The stream has room for what the socket sends.
    private var mayRead = true
    private var readsAtOnce = 1
    /// Bytes read since `read` was last called.
    private var bytesInTurn = 0
    private var onEnd: ((BridgedSocket, End) -> Void)?
    /// Since the answer, what was said before it included.
    public private(set) var bytesToStream: UInt64 = 0
    public private(set) var bytesFromStream: UInt64 = 0
    /// The peer's last reset of its direction, or refusal of ours.
    public private(set) var peersCode: StreamErrorCode?

    /// - Parameters:
    ///   - input: the one created when the channel was first read; nil: nothing was read yet.
    ///   - onEnd: called once; the stream may then be released.
    public init(
        _ access: Access,
        stream: StreamID,
        channel: any Channel,
        keepAlive rounds: KeepAliveRounds,
        input: UrgentInput? = nil,
        onEnd: @escaping (BridgedSocket, End) -> Void
    ) {
        self.access = access
        self.stream = stream
        self.channel = channel
        self.rounds = rounds
        self.input = input ?? UrgentInput(channel)
        self.onEnd = onEnd
    }

    /// Waits for the peer's answer; called once the handler is in the pipeline.
    ///
    /// - Parameter means: what the peer's first byte means.
    public func startWaiting(memory: EarlyMemory, means: @escaping (UInt8) -> AnswerMeaning) {
        self.state = .waiting(
            AnswerWait(
                self.access,
                self.stream,
                input: self.input,
                memory: memory,
                on: self.channel.eventLoop,
                means: means
            ) { [weak self] in self?.noAnswer(.timedOut) }
        )
        self.channel.read()
    }

    /// Starts passing bytes; called once the handler is in the pipeline, or after the answer.
    public func start() {
        self.rounds.add(self.channel)
        guard self.channel.isActive else { return self.socketClosed() }
        self.pumpToSocket()
        if self.incoming == .open, self.mayRead { self.read() }
    }

    // MARK: Socket to stream

    /// What is read in one turn of the loop is sent together, which is cheaper the more it is. Several reads are allowed only
    /// after the socket filled all it was allowed, while the stream has room; SwiftNIO then keeps as many buffers.
    private func read() {
        var count = 1
        if self.bytesInTurn >= self.readsAtOnce * bridgedReadSize {
            let room = self.access.withConnection { $0.writableBytes(self.stream) } ?? 0
            count = max(1, min(bridgedReadsAtMost, room / bridgedReadSize))
        }
        self.bytesInTurn = 0
        if count != self.readsAtOnce {
            self.readsAtOnce = count
            try? self.channel.syncOptions?.setOption(.maxMessagesPerRead, value: UInt(count))
        }
        self.channel.read()
    }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data)
        if case .waiting(let wait) = self.state { return wait.take(bytes) }
        self.bytesToStream += UInt64(bytes.readableBytes)
        self.bytesInTurn += bytes.readableBytes
        self.mayRead =
            self.access.withConnection { connection in
                guard self.input.hasMarks else { return connection.write(bytes, to: self.stream) }
                let offset = self.input.offset(ofNew: bytes)
                return connection.write(bytes, at: offset, of: self.input, to: self.stream)
            } ?? false
        self.input.forgetMarks()
    }

    public func channelReadComplete(context: ChannelHandlerContext) {
        if case .waiting(let wait) = self.state {
            if wait.mayRead { context.read() }
        } else {
            self.readOn()
        }
    }

    private func readOn() { if self.mayRead, self.incoming == .open, case .open = self.state { self.read() } }

    public func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case ChannelEvent.inputClosed = event, self.incoming == .open else {
            return context.fireUserInboundEventTriggered(event)
        }
        self.incoming = .closed
        if case .waiting(let wait) = self.state { return wait.inputClosed() }
        _ = self.access.withConnection { $0.finish(self.stream) }
        self.closeIfDone()
    }

    /// The socket was reset, so both directions of the stream are too.
    public func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if self.incoming == .open { self.incoming = .reset }
        context.close(promise: nil)
    }

    public func channelInactive(context: ChannelHandlerContext) {
        // If the output was closed before, NIO reports the end of the input only by this call.
        if self.output == .closed, self.incoming == .open {
            self.incoming = .closed
            _ = self.access.withConnection { $0.finish(self.stream) }
        }
        self.socketClosed()
    }

    private func socketClosed() {
        guard !self.isDone else { return }
        // What is called here does nothing for a direction that is over.
        if self.output == .open {
            self.giveUpStream(.tcpReset)
        } else if self.incoming != .closed {
            _ = self.access.withConnection { $0.reset(self.stream, .tcpReset) }
        }
        self.done()
    }

    public func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.pumpToSocket() }
    }

    // MARK: Stream to socket

    private func pumpToSocket() {
        switch self.state {
        case .open, .resetting: break
        case .waiting, .done: return
        }
        guard self.output == .open, !(self.urgentOutput?.isBusy ?? false) else { return }
        var wrote = false
        loop: while self.channel.isWritable {
            var isUrgent = false
            let read = self.access.withConnection { connection in
                isUrgent = connection.urgentIsNext(self.stream)
                return connection.read(self.stream)
            }
            switch read ?? .nothing {
            case .bytes(let bytes):
                self.bytesFromStream += UInt64(bytes.readableBytes)
                // `urgentOutput` calls this again once the byte is sent.
                if isUrgent { return self.writeUrgent(bytes) }
                self.channel.write(bytes, promise: nil)
                wrote = true
            case .end:
                self.output = .closing
                break loop
            case .nothing: break loop
            }
        }
        if wrote { self.channel.flush() }
        if self.output == .closing {
            self.channel.closeOutputWhenWritten().assumeIsolated().whenComplete { result in
                if case .success = result { self.output = .closed }
                self.closeIfDone()
            }
        }
    }

    private func writeUrgent(_ bytes: ByteBuffer) {
        let output = self.urgentOutput ?? UrgentOutput(self.channel) { [weak self] in self?.pumpToSocket() }
        self.urgentOutput = output
        for byte in bytes.readableBytesView { output.writeUrgent(byte) }
    }

    private func closeIfDone() {
        guard self.incoming == .closed, self.output == .closed, !self.isDone else { return }
        self.channel.close(promise: nil)
        self.done()
    }

    private var isDone: Bool { if case .done = self.state { true } else { false } }

    private func done(_ end: End = .done) {
        switch self.state {
        case .waiting(let wait): wait.end()
        case .open, .resetting: self.rounds.remove(self.channel)
        case .done: return
        }
        self.state = .done
        let onEnd = self.onEnd
        self.onEnd = nil
        onEnd?(self, end)
    }

    /// Ends the socket by a reset, so that the program behind it doesn't take the cut for an end. If it has had the end
    /// already, the socket closes properly, which still delivers all bytes before it.
    private func resetSocket() {
        guard !self.isDone else { return }
        self.done()
        if self.output == .closed { self.channel.closeProperly() } else { self.channel.closeWithReset() }
    }

    /// The same, but after all bytes that came before: the socket at the other end was reset, and that must lose no bytes.
    private func resetSocketBehindBytes() {
        guard case .open = self.state else { return }
        let reset = ResetBehindBytes(self.channel) { [weak self] in self?.writeRest() ?? .init(isWritten: true) }
        self.state = .resetting(reset)
        reset.look()
    }

    private func writeRest() -> ResetBehindBytes.Rest {
        self.pumpToSocket()
        let isMore = self.output == .open && self.access.withConnection { $0.hasBytes(self.stream) } ?? false
        let isUrgent = self.urgentOutput?.isBusy ?? false
        return .init(isWritten: !isMore && !isUrgent, written: self.bytesFromStream)
    }

    /// Gives up the connection for a reason of ours.
    public func abandon(_ code: StreamErrorCode) {
        guard !self.isDone else { return }
        self.giveUpStream(code)
        self.resetSocket()
    }

    private func giveUpStream(_ code: StreamErrorCode) {
        _ = self.access.withConnection { connection in
            connection.reset(self.stream, code)
            connection.stopSending(self.stream, code)
        }
    }

    // MARK: The answer

    private func readAnswer(_ wait: AnswerWait<Access>) {
        switch self.access.withConnection({ $0.read(self.stream, atMost: 1) }) ?? .nothing {
        case .bytes(let bytes):
            guard let byte: UInt8 = bytes.getInteger(at: bytes.readerIndex) else { return }
            switch wait.means(byte) {
            case .open: self.open(wait)
            case .refused: self.handBack(wait)
            // The peer may or may not have passed the bytes on, so no other server must get them.
            case .invalid: self.abandon(.tcpReset)
            }
        case .end: self.abandon(.tcpReset)
        case .nothing: break
        }
    }

    private func open(_ wait: AnswerWait<Access>) {
        wait.end()
        wait.sendHeld()
        self.mayRead = wait.hasRoom
        self.bytesToStream = UInt64(wait.early.count)
        self.state = .open
        self.start()
    }

    private func handBack(_ wait: AnswerWait<Access>) {
        let isFinished = self.access.withConnection { connection -> Bool in
            connection.reset(self.stream, .handedToOriginal)
            // The peer's FIN comes with its answer; if it hasn't, the peer is told to stop sending.
            return connection.read(self.stream) == .end
        }
        if isFinished != true { _ = self.access.withConnection { $0.stopSending(self.stream, .handedToOriginal) } }
        self.refused(wait)
    }

    private func refused(_ wait: AnswerWait<Access>) {
        self.done(.refused(wait.early))
        self.channel.pipeline.syncOperations.removeHandler(self, promise: nil)
    }

    /// No answer came in time, or the peer is gone.
    private func noAnswer(_ code: StreamErrorCode) {
        guard case .waiting(let wait) = self.state else { return }
        if wait.hasSentBytes { return self.abandon(code) }
        self.giveUpStream(code)
        self.refused(wait)
    }

    /// There is a carrier again and the peer responds.
    public func peerIsBack() { if case .waiting(let wait) = self.state { wait.sendHeld() } }

    /// The peer is gone (PROTOCOL, liveness): its answer isn't waited for any longer.
    public func peerIsGone() { self.noAnswer(.timedOut) }

    /// The way to the peer is silent: its answer isn't waited for where another server can get all that was said.
    public func wayIsSilent() {
        if case .waiting(let wait) = self.state, !wait.hasSentBytes { self.noAnswer(.timedOut) }
    }
}

extension BridgedSocket: StreamOwner {
    public func streamIsReadable() {
        if case .waiting(let wait) = self.state { self.readAnswer(wait) } else { self.pumpToSocket() }
    }

    public func streamIsWritable() {
        if case .waiting(let wait) = self.state {
            wait.hasRoom = true
            if wait.mayRead { self.channel.read() }
            return
        }
        self.mayRead = true
        self.readOn()
    }

    public func streamWasReset(_ code: StreamErrorCode) {
        self.peersCode = code
        // Before the answer, it means that the peer doesn't know what became of the bytes.
        if case .waiting = self.state { return self.abandon(.tcpReset) }
        _ = self.access.withConnection { $0.reset(self.stream, .tcpReset) }
        if code == .tcpReset { self.resetSocketBehindBytes() } else { self.resetSocket() }
    }

    /// The socket at the other end takes no more bytes, which TCP signals by a reset too.
    public func streamWasStopped(_ code: StreamErrorCode) {
        self.peersCode = code
        if case .waiting = self.state { return self.abandon(.tcpReset) }
        if code == .tcpReset { return self.resetSocketBehindBytes() }
        _ = self.access.withConnection { $0.stopSending(self.stream, code) }
        self.resetSocket()
    }

    public func streamEnded() {
        if case .waiting = self.state { self.noAnswer(.timedOut) } else { self.resetSocket() }
    }
}
