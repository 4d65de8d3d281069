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
/// The channel needs `autoRead` off and `allowRemoteHalfClosure` on.
public final class StreamBridge<Access: ConnectionAccess>: ChannelInboundHandler, RemovableChannelHandler {
    public typealias InboundIn = ByteBuffer

    private let access: Access
    private let stream: StreamID
    private let channel: any Channel
    private let input: UrgentInput
    private let rounds: KeepAliveRounds
    /// Created with the first urgent byte for the socket.
    private var urgentOutput: UrgentOutput?
    private var inputIsClosed: Bool
    /// The stream's end was read: the socket's output closes after everything written.
    private var outputIsClosing = false
    private var outputIsClosed = false
    private var isDone = false
    private var wasReset = false
    /// Resets this socket after the rest of the stream, once the socket at the other end was reset.
    private var resetBehindBytes: ResetBehindBytes?
    /// The stream has room for what the socket sends.
    private var mayRead = true
    private var readsAtOnce = 1
    /// Bytes read since `read` was last called.
    private var bytesInTurn = 0
    private var onDone: ((StreamBridge) -> Void)?
    public private(set) var bytesToStream: UInt64 = 0
    public private(set) var bytesFromStream: UInt64 = 0
    /// The peer has reset its direction, or doesn't want ours.
    public private(set) var peersCode: StreamErrorCode?

    /// - Parameters:
    ///   - input: the one created when the channel was first read; nil: nothing was read yet.
    ///   - inputIsClosed: the socket's FIN was seen, and passed on, before.
    ///   - onDone: called when the socket is closed and both directions are done; the stream may then be released.
    public init(
        _ access: Access,
        stream: StreamID,
        channel: any Channel,
        keepAlive rounds: KeepAliveRounds,
        input: UrgentInput? = nil,
        inputIsClosed: Bool = false,
        onDone: @escaping (StreamBridge) -> Void
    ) {
        self.access = access
        self.stream = stream
        self.channel = channel
        self.rounds = rounds
        self.input = input ?? UrgentInput(channel)
        self.inputIsClosed = inputIsClosed
        self.onDone = onDone
    }

    public func handlerAdded(context: ChannelHandlerContext) { self.rounds.add(self.channel) }

    public func handlerRemoved(context: ChannelHandlerContext) { self.rounds.remove(self.channel) }

    /// Starts passing bytes; called once the handler is in the pipeline.
    public func start() {
        guard self.channel.isActive else { return self.socketClosed() }
        self.pumpToSocket()
        if !self.inputIsClosed { self.read() }
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
        if self.mayRead, !self.inputIsClosed, self.resetBehindBytes == nil { self.read() }
    }

    public func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case ChannelEvent.inputClosed = event, !self.inputIsClosed else {
            return context.fireUserInboundEventTriggered(event)
        }
        self.inputIsClosed = true
        _ = self.access.withConnection { $0.finish(self.stream) }
        self.closeIfDone()
    }

    /// The socket was reset, so both directions of the stream are too.
    public func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.wasReset = true
        context.close(promise: nil)
    }

    public func channelInactive(context: ChannelHandlerContext) {
        // If the output was closed before, NIO reports the end of the input only by this call.
        if self.outputIsClosed, !self.inputIsClosed, !self.wasReset {
            self.inputIsClosed = true
            _ = self.access.withConnection { $0.finish(self.stream) }
        }
        self.socketClosed()
    }

    private func socketClosed() {
        guard !self.isDone else { return }
        _ = self.access.withConnection { connection in
            // Both calls do nothing for a direction that is over.
            if !self.inputIsClosed { connection.reset(self.stream, .tcpReset) }
            if !self.outputIsClosing {
                connection.stopSending(self.stream, .tcpReset)
                connection.reset(self.stream, .tcpReset)
            }
        }
        self.done()
    }

    public func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.pumpToSocket() }
    }

    // MARK: Stream to socket

    private func pumpToSocket() {
        guard !self.isDone, !self.outputIsClosing, !(self.urgentOutput?.isBusy ?? false) else { return }
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
                self.outputIsClosing = true
                break loop
            case .nothing: break loop
            }
        }
        if wrote { self.channel.flush() }
        if self.outputIsClosing {
            self.channel.closeOutputWhenWritten().assumeIsolated().whenComplete { result in
                if case .success = result { self.outputIsClosed = true }
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
        guard self.inputIsClosed, self.outputIsClosed, !self.isDone else { return }
        self.channel.close(promise: nil)
        self.done()
    }

    private func done() {
        guard !self.isDone else { return }
        self.isDone = true
        let onDone = self.onDone
        self.onDone = nil
        onDone?(self)
    }

    /// Ends the socket by a reset, so that the program behind it doesn't take the cut for an end. If it has had the end
    /// already, the socket closes properly, which still delivers all bytes before it.
    private func resetSocket() {
        guard !self.isDone else { return }
        self.done()
        if self.outputIsClosed { self.channel.closeProperly() } else { self.channel.closeWithReset() }
    }

    /// The same, but after all bytes that came before: the socket at the other end was reset, and that must lose no bytes.
    private func resetSocketBehindBytes() {
        guard !self.isDone, self.resetBehindBytes == nil else { return }
        let reset = ResetBehindBytes(self.channel) { [weak self] in self?.writeRest() ?? .init(isWritten: true) }
        self.resetBehindBytes = reset
        reset.look()
    }

    private func writeRest() -> ResetBehindBytes.Rest {
        self.pumpToSocket()
        let isMore = !self.outputIsClosing && self.access.withConnection { $0.hasBytes(self.stream) } ?? false
        let isUrgent = self.urgentOutput?.isBusy ?? false
        return .init(isWritten: !isMore && !isUrgent, written: self.bytesFromStream)
    }

    /// Gives up the connection for a reason of ours.
    public func abandon(_ code: StreamErrorCode) {
        guard !self.isDone else { return }
        _ = self.access.withConnection { connection in
            connection.reset(self.stream, code)
            connection.stopSending(self.stream, code)
        }
        self.resetSocket()
    }
}

extension StreamBridge: StreamOwner {
    public func streamIsReadable() { self.pumpToSocket() }

    public func streamIsWritable() {
        self.mayRead = true
        if !self.inputIsClosed, self.resetBehindBytes == nil { self.read() }
    }

    public func streamWasReset(_ code: StreamErrorCode) {
        self.peersCode = code
        _ = self.access.withConnection { $0.reset(self.stream, .tcpReset) }
        if code == .tcpReset { self.resetSocketBehindBytes() } else { self.resetSocket() }
    }

    /// The socket at the other end takes no more bytes, which TCP signals by a reset too.
    public func streamWasStopped(_ code: StreamErrorCode) {
        self.peersCode = code
        if code == .tcpReset { return self.resetSocketBehindBytes() }
        _ = self.access.withConnection { $0.stopSending(self.stream, code) }
        self.resetSocket()
    }

    public func streamEnded() { self.resetSocket() }
}
