public import NIOCore
public import Tunnel

/// The greatest read of SwiftNIO's adaptive allocator, and how many of them one turn of the loop takes where there is room. †
private let bridgedReadSize = 64 * 1_024
private let bridgedReadsAtMost = 4

/// Ties a socket to a stream: bytes, half-close, reset and back-pressure pass through both ways.
///
/// Added to the socket's pipeline as its last handler. It reads only when the stream has room, and takes from the stream
/// only when the socket does, so that a slow reader at one end slows the writer at the other, and nothing grows in between.
///
/// The channel needs `autoRead` off and `allowRemoteHalfClosure` on.
public final class StreamBridge<Access: ConnectionAccess>: ChannelInboundHandler, RemovableChannelHandler {
    public typealias InboundIn = ByteBuffer

    private let access: Access
    private let stream: StreamID
    private let channel: any Channel
    private let input: UrgentInput
    /// Once there was an urgent byte for the socket.
    private var urgentOutput: UrgentOutput?
    private var inputIsClosed: Bool
    /// The stream's end was taken: the socket's output closes behind all that was written.
    private var outputIsClosing = false
    private var outputIsClosed = false
    private var isDone = false
    private var wasReset = false
    /// Ends this socket behind what is left of the stream, once the other side's was reset.
    private var resetBehindBytes: ResetBehindBytes?
    /// The stream has room for what the socket gives.
    private var mayRead = true
    private var readsAtOnce = 1
    /// Read since reading was last asked for.
    private var bytesInTurn = 0
    private var onDone: ((StreamBridge) -> Void)?
    public private(set) var bytesToStream: UInt64 = 0
    public private(set) var bytesFromStream: UInt64 = 0

    /// - Parameters:
    ///   - input: what was made for the channel when the first of it was read; nil: nothing was yet.
    ///   - inputIsClosed: the socket's end was seen, and passed on, before.
    ///   - onDone: the socket is closed and both directions are done with; the stream may be released.
    public init(
        _ access: Access,
        stream: StreamID,
        channel: any Channel,
        input: UrgentInput? = nil,
        inputIsClosed: Bool = false,
        onDone: @escaping (StreamBridge) -> Void
    ) {
        self.access = access
        self.stream = stream
        self.channel = channel
        self.input = input ?? UrgentInput(channel)
        self.inputIsClosed = inputIsClosed
        self.onDone = onDone
    }

    /// Begins, once the handler is in the pipeline.
    public func start() {
        guard self.channel.isActive else { return self.socketClosed() }
        self.pumpToSocket()
        if !self.inputIsClosed { self.read() }
    }

    // MARK: Socket to stream

    /// What was read in one turn of the loop goes out together: the more of it, the cheaper. More than one read is for who has
    /// just filled all that it might, while the stream has room; SwiftNIO keeps as many buffers, too.
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

    /// The socket was reset: so are both directions of the stream.
    public func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.wasReset = true
        context.close(promise: nil)
    }

    public func channelInactive(context: ChannelHandlerContext) {
        // When the output was closed before, NIO tells the input's end by this alone.
        if self.outputIsClosed, !self.inputIsClosed, !self.wasReset {
            self.inputIsClosed = true
            _ = self.access.withConnection { $0.finish(self.stream) }
        }
        self.socketClosed()
    }

    private func socketClosed() {
        guard !self.isDone else { return }
        _ = self.access.withConnection { connection in
            // Does nothing to a direction that is over.
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
                // Goes on here once that is out.
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

    /// Ends the socket as a reset does, so that its other side doesn't take the cut for an end. Where that has had its end
    /// already, nothing of what came before that is taken back.
    private func resetSocket() {
        guard !self.isDone else { return }
        self.done()
        if self.outputIsClosed { self.channel.closeProperly() } else { self.channel.closeWithReset() }
    }

    /// The same behind all that came before: the other side's socket was reset, and no bytes are to be lost by that.
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

    /// Gives the connection up, for a reason of ours.
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
        _ = self.access.withConnection { $0.reset(self.stream, .tcpReset) }
        if code == .tcpReset { self.resetSocketBehindBytes() } else { self.resetSocket() }
    }

    /// The other side's socket takes nothing more: TCP says that by a reset, too.
    public func streamWasStopped(_ code: StreamErrorCode) {
        if code == .tcpReset { return self.resetSocketBehindBytes() }
        _ = self.access.withConnection { $0.stopSending(self.stream, code) }
        self.resetSocket()
    }

    public func streamEnded() { self.resetSocket() }
}
