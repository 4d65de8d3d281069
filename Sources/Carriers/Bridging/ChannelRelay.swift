public import NIOCore

/// Ties two sockets together without a tunnel: it passes connections to the original service.
///
/// There is one relay in each socket's pipeline. As with `BridgedSocket`, half-close, reset and back-pressure pass through,
/// and the channels need `autoRead` off and `allowRemoteHalfClosure` on.
///
/// The client's relay is added before the other socket exists. If the client ends its side meanwhile, NIO reads what it has
/// sent without being asked, and somebody must be there to keep that.
public final class ChannelRelay: ChannelInboundHandler, RemovableChannelHandler {
    public typealias InboundIn = ByteBuffer

    private enum State {
        /// The other socket is not connected yet, but already uses a descriptor. What the client has sent before is kept for
        /// it, even if the client is gone.
        case dialling(early: [ByteBuffer], isGone: Bool)
        case joined(ChannelRelay)
        /// The other socket is closed; this one will be, once both of its directions have ended.
        case left
        case over
    }

    private let channel: any Channel
    private let memory: RelayMemory
    private let input: UrgentInput
    private let rounds: KeepAliveRounds
    private var state: State
    private var inputIsClosed: Bool
    private var output = SocketOutput.open
    /// Created with the first urgent byte for this socket.
    private var urgentOutput: UrgentOutput?
    /// Capacity of the buffers read here that are not fully written to the other socket.
    private var unsent = 0
    /// Reading resumes once all of them are written.
    private var isHeld = false
    private var readsLittle = false
    private var onDone: (() -> Void)?

    /// - Parameters:
    ///   - firstBytes: what was read from the client before.
    ///   - inputIsClosed: whether the client's FIN was seen as well.
    ///   - memory: shared by all relays of this event loop.
    ///   - input: the one created when the client was first read; nil: nothing was read yet.
    ///   - onDone: called when both sockets are closed, and `join` or `refuse` was called.
    public init(
        client: any Channel,
        memory: RelayMemory,
        keepAlive rounds: KeepAliveRounds,
        input: UrgentInput? = nil,
        firstBytes: [ByteBuffer] = [],
        inputIsClosed: Bool = false,
        onDone: @escaping () -> Void
    ) {
        self.channel = client
        self.memory = memory
        self.rounds = rounds
        self.input = input ?? UrgentInput(client)
        self.state = .dialling(early: firstBytes, isGone: false)
        self.inputIsClosed = inputIsClosed
        self.onDone = onDone
        for bytes in firstBytes { self.keep(bytes.storageCapacity) }
    }

    private init(server: any Channel, of client: ChannelRelay) {
        self.channel = server
        self.memory = client.memory
        self.rounds = client.rounds
        self.input = UrgentInput(server)
        self.state = .left
        self.inputIsClosed = false
    }

    private var partner: ChannelRelay? { if case .joined(let partner) = self.state { partner } else { nil } }

    public func handlerAdded(context: ChannelHandlerContext) { self.rounds.add(self.channel) }

    public func handlerRemoved(context: ChannelHandlerContext) { self.rounds.remove(self.channel) }

    /// The other socket is connected. If the client was reset meanwhile, it gets what the client has sent, the FIN if there
    /// was one, and then the reset.
    public func join(_ server: any Channel) {
        guard case .dialling(let early, let isGone) = self.state else { return server.closeWithReset() }
        let back = ChannelRelay(server: server, of: self)
        guard !isGone || !early.isEmpty, (try? server.pipeline.syncOperations.addHandler(back)) != nil else {
            server.closeWithReset()
            return self.refuse()
        }
        if isGone {
            self.state = .over
            self.leave(to: back)
        } else {
            self.state = .joined(back)
            back.state = .joined(self)
        }
        var offset: UInt64 = 0
        for bytes in early {
            self.write(bytes, at: offset, to: back)
            offset += UInt64(bytes.readableBytes)
        }
        self.input.forgetMarks()
        server.flush()
        if self.inputIsClosed { back.closeOutput() }
        if isGone { return back.endBehindBytes() }
        self.readOn()
        server.read()
        if !server.isActive { back.end() }
    }

    /// There will be no other socket: the client's connection is reset, as the original service's host would do.
    public func refuse() {
        if case .dialling(let early, let isGone) = self.state {
            for bytes in early { self.release(bytes.storageCapacity) }
            self.state = isGone ? .over : .left
        }
        self.end()
        // `end` does nothing if the client is gone already.
        self.done()
    }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data)
        switch self.state {
        case .joined(let partner):
            self.keep(bytes.storageCapacity)
            self.write(bytes, at: self.input.offset(ofNew: bytes), to: partner)
            self.input.forgetMarks()
        case .dialling(let early, false):
            self.keep(bytes.storageCapacity)
            self.state = .dialling(early: early + [bytes], isGone: false)
        case .dialling, .left, .over: break
        }
    }

    public func channelReadComplete(context: ChannelHandlerContext) {
        guard let partner = self.partner else { return }
        partner.channel.flush()
        self.readOn()
    }

    public func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.partner?.readOn() }
    }

    // MARK: What is on its way

    private func keep(_ size: Int) {
        self.unsent += size
        self.memory.used += size
    }

    private func release(_ size: Int) {
        self.unsent -= size
        self.memory.used -= size
    }

    /// - Parameter offset: how many bytes were read before these.
    private func write(_ bytes: ByteBuffer, at offset: UInt64, to partner: ChannelRelay) {
        let size = bytes.storageCapacity
        var rest = bytes
        if self.input.hasMarks {
            self.input.forEachPiece(of: bytes, at: offset) { partner.write($0) }
            rest.clear()
        }
        // Completes even if the socket is closed first.
        partner.writeAndKnow(rest).assumeIsolated().whenComplete { _ in
            self.release(size)
            guard self.isHeld, self.unsent == 0 else { return }
            self.isHeld = false
            self.readOn()
        }
    }

    /// Writes to this socket.
    private func write(_ piece: UrgentInput.Piece) {
        switch piece {
        case .bytes(let bytes): self.write(bytes, promise: nil)
        case .urgent(let byte):
            let output =
                self.urgentOutput
                ?? UrgentOutput(self.channel) { [weak self] in
                    guard let self else { return }
                    if self.output == .open { self.partner?.readOn() } else { self.endOutput() }
                }
            self.urgentOutput = output
            output.writeUrgent(byte)
        }
    }

    /// Completes when the bytes, and all written before them, are sent.
    private func writeAndKnow(_ bytes: ByteBuffer) -> EventLoopFuture<Void> {
        let promise = self.channel.eventLoop.makePromise(of: Void.self)
        self.write(bytes, promise: promise)
        return promise.futureResult
    }

    private func write(_ bytes: ByteBuffer, promise: EventLoopPromise<Void>?) {
        guard let output = self.urgentOutput else { return self.channel.write(bytes, promise: promise) }
        output.write(bytes, promise: promise)
    }

    private var isSendingUrgent: Bool { self.urgentOutput?.isBusy ?? false }

    /// Reads on while the other socket is writable; if all relays together hold much, in small pieces.
    private func readOn() {
        guard let partner = self.partner, !self.inputIsClosed, partner.channel.isWritable, !partner.isSendingUrgent
        else { return }
        guard self.memory.hasRoom || self.unsent == 0 else {
            self.isHeld = true
            return
        }
        if self.readsLittle == self.memory.hasRoom {
            self.readsLittle = !self.memory.hasRoom
            if self.readsLittle {
                self.input.use(RelayMemory.small, on: self.channel)
            } else {
                self.input.use(AdaptiveRecvByteBufferAllocator(), on: self.channel)
            }
        }
        self.channel.read()
    }

    public func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard case ChannelEvent.inputClosed = event else { return context.fireUserInboundEventTriggered(event) }
        guard !self.inputIsClosed else { return }
        self.inputIsClosed = true
        self.partner?.closeOutput()
        self.endIfDone()
    }

    /// Closes the output after everything written.
    private func closeOutput() {
        guard self.output == .open else { return }
        self.output = .closing
        if !self.isSendingUrgent { self.endOutput() }
    }

    private func endOutput() {
        self.channel.flush()
        self.channel.closeOutputWhenWritten().assumeIsolated().whenComplete { result in
            if case .success = result { self.output = .closed }
            self.endIfDone()
        }
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) { self.end() }

    public func channelInactive(context: ChannelHandlerContext) {
        // NIO reports the second of two ends only by this call: the end of the input if the output was closed before, or the
        // end of the output if the input was. Errors were reported to `errorCaught` before.
        if self.output == .closed, !self.inputIsClosed {
            self.inputIsClosed = true
            self.partner?.closeOutput()
        }
        if self.inputIsClosed, self.output == .closing { self.output = .closed }
        self.end()
    }

    /// If both directions of this socket have ended properly, closes it. The other socket closes when its own have.
    private func endIfDone() {
        if self.isProper { self.end() }
    }

    private var isProper: Bool { self.inputIsClosed && self.output == .closed }

    /// Ends this socket. If it had not ended properly, it is reset, and so is the other one, behind the bytes written before.
    /// What the client sent before there was another socket is kept for that one.
    private func end() {
        let partner = self.partner
        switch self.state {
        case .dialling(let early, false): self.state = .dialling(early: early, isGone: true)
        case .joined, .left: self.state = .over
        case .dialling, .over: return
        }
        partner?.state = .left
        let isProper = self.isProper
        if isProper { self.channel.closeProperly() } else { self.channel.closeWithReset() }
        if let partner {
            self.leave(to: partner)
            if !isProper { partner.endBehindBytes() }
        }
        self.done()
    }

    /// The other socket outlives this one: its end will call `onDone`.
    private func leave(to partner: ChannelRelay) {
        guard let onDone = self.onDone else { return }
        self.onDone = nil
        partner.onDone = onDone
    }

    private func endBehindBytes() {
        if case .over = self.state { return }
        self.state = .over
        ResetBehindBytes(self.channel) { .init(isWritten: !self.isSendingUrgent) }.look()
        self.channel.closeFuture.assumeIsolated().whenComplete { _ in self.done() }
    }

    private func done() {
        if case .dialling = self.state { return }
        let onDone = self.onDone
        self.onDone = nil
        onDone?()
    }
}

/// Counts the memory that all relays of an event loop hold for sockets that don't read, and bounds it, however many of them
/// there are.
public final class RelayMemory {
    fileprivate var used = 0
    fileprivate var hasRoom: Bool { self.used < self.atMost }

    /// Beyond this, each relay holds one small piece.
    private let atMost: Int
    fileprivate static let small = FixedSizeRecvByteBufferAllocator(capacity: 8 * 1_024)

    // †
    public init(atMost: Int = 32 * 1_024 * 1_024) { self.atMost = atMost }
}
