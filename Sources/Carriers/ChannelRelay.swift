public import NIOCore

/// Ties two sockets together without a tunnel: the way to the original service.
///
/// Two of these, one in each pipeline. Like `StreamBridge`: half-close, reset and back-pressure pass through, and the
/// channels need `autoRead` off and `allowRemoteHalfClosure` on.
///
/// The client's half is in its pipeline before the other socket exists: NIO reads on its own when a socket's end comes,
/// and what it reads then must not be lost.
public final class ChannelRelay: ChannelInboundHandler, RemovableChannelHandler {
    public typealias InboundIn = ByteBuffer

    private let channel: any Channel
    private let memory: RelayMemory
    private let input: UrgentInput
    /// Once there was an urgent byte for this socket.
    private var urgentOutput: UrgentOutput?
    private var partner: ChannelRelay?
    /// What was read here and isn't out at the other socket, with the buffers that it is in.
    private var unsent = 0
    /// Reads on once all of that is out.
    private var isHeld = false
    private var readsLittle = false
    private var early: [ByteBuffer]
    private var inputIsClosed: Bool
    private var outputIsClosing = false
    /// All that was written, and the end behind it, is out.
    private var outputIsClosed = false
    private var isOver = false
    private var wasJoined = false
    /// The other socket isn't there yet, and takes a descriptor already.
    private var isDialling: Bool
    private var onDone: (() -> Void)?

    /// - Parameters:
    ///   - firstBytes: what was read of the client before.
    ///   - inputIsClosed: whether its end was seen as well.
    ///   - memory: of all relays of this event loop.
    ///   - input: what was made for the client when the first of it was read; nil: nothing was yet.
    ///   - onDone: both sockets are closed, and `join` or `refuse` was called.
    public init(
        client: any Channel,
        memory: RelayMemory,
        input: UrgentInput? = nil,
        firstBytes: [ByteBuffer] = [],
        inputIsClosed: Bool = false,
        onDone: @escaping () -> Void
    ) {
        self.channel = client
        self.memory = memory
        self.input = input ?? UrgentInput(client)
        self.early = firstBytes
        self.inputIsClosed = inputIsClosed
        self.isDialling = true
        self.onDone = onDone
        for bytes in firstBytes { self.keep(bytes.storageCapacity) }
    }

    private init(server: any Channel, memory: RelayMemory) {
        self.channel = server
        self.memory = memory
        self.input = UrgentInput(server)
        self.early = []
        self.inputIsClosed = false
        self.isDialling = false
    }

    /// The other socket is there.
    public func join(_ server: any Channel) {
        let back = ChannelRelay(server: server, memory: self.memory)
        let isUseful = !self.isOver || !self.early.isEmpty
        guard isUseful, (try? server.pipeline.syncOperations.addHandler(back)) != nil else {
            server.closeWithReset()
            return self.refuse()
        }
        self.isDialling = false
        self.wasJoined = true
        if self.isOver { return self.giveLastWords(to: back) }
        self.partner = back
        back.partner = self
        self.writeEarly(to: back)
        server.flush()
        if self.inputIsClosed { back.closeOutput() } else { self.readOn() }
        server.read()
        if !server.isActive { back.end() }
    }

    /// The client was reset before there was another socket: what it had said, and its end, and the reset behind them.
    private func giveLastWords(to back: ChannelRelay) {
        self.writeEarly(to: back)
        if self.inputIsClosed { back.closeOutput() } else { back.channel.flush() }
        self.leave(to: back)
        back.endBehindBytes()
    }

    private func writeEarly(to back: ChannelRelay) {
        let early = self.early
        self.early = []
        var offset: UInt64 = 0
        for bytes in early {
            self.write(bytes, at: offset, to: back)
            offset += UInt64(bytes.readableBytes)
        }
        self.input.forgetMarks()
    }

    /// There will be no other socket: the client gets what it would have got there.
    public func refuse() {
        self.isDialling = false
        self.forgetEarly()
        self.end()
        // Where the client was gone before.
        self.done()
    }

    private func forgetEarly() {
        for bytes in self.early { self.release(bytes.storageCapacity) }
        self.early = []
    }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data)
        if let partner = self.partner {
            self.keep(bytes.storageCapacity)
            self.write(bytes, at: self.input.offset(ofNew: bytes), to: partner)
            self.input.forgetMarks()
        } else if !self.isOver, !self.wasJoined {
            self.keep(bytes.storageCapacity)
            self.early.append(bytes)
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

    /// - Parameter offset: how many bytes were read before them.
    private func write(_ bytes: ByteBuffer, at offset: UInt64, to partner: ChannelRelay) {
        let size = bytes.storageCapacity
        var rest = bytes
        if self.input.hasMarks {
            self.input.forEachPiece(of: bytes, at: offset) { partner.write($0) }
            rest.clear()
        }
        // Also where the socket is closed before.
        partner.writeAndKnow(rest).assumeIsolated().whenComplete { _ in
            self.release(size)
            guard self.isHeld, self.unsent == 0 else { return }
            self.isHeld = false
            self.readOn()
        }
    }

    /// To this socket.
    private func write(_ piece: UrgentInput.Piece) {
        switch piece {
        case .bytes(let bytes): self.write(bytes, promise: nil)
        case .urgent(let byte):
            let output =
                self.urgentOutput
                ?? UrgentOutput(self.channel) { [weak self] in
                    guard let self else { return }
                    if self.outputIsClosing { self.endOutput() } else { self.partner?.readOn() }
                }
            self.urgentOutput = output
            output.writeUrgent(byte)
        }
    }

    /// Written behind what was written before, once it is flushed.
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

    /// As long as the other socket takes it; where all of them together have much to keep, little by little.
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

    /// Behind everything written: NIO closes the output once all of it is out.
    private func closeOutput() {
        guard !self.outputIsClosing else { return }
        self.outputIsClosing = true
        if !self.isSendingUrgent { self.endOutput() }
    }

    private func endOutput() {
        self.channel.flush()
        self.channel.closeOutputWhenWritten().assumeIsolated().whenComplete { result in
            if case .success = result { self.outputIsClosed = true }
            self.endIfDone()
        }
    }

    public func errorCaught(context: ChannelHandlerContext, error: any Error) { self.end() }

    public func channelInactive(context: ChannelHandlerContext) {
        // NIO tells the second of two ends by this alone: the input's when the output was closed before, or the
        // output's when the input was. What broke, `errorCaught` has told before.
        if self.outputIsClosed, !self.inputIsClosed {
            self.inputIsClosed = true
            self.partner?.closeOutput()
        }
        if self.inputIsClosed, self.outputIsClosing { self.outputIsClosed = true }
        self.end()
    }

    /// Both directions of this socket have ended as they should. The other one closes when its own have.
    private func endIfDone() {
        if self.inputIsClosed, self.outputIsClosed { self.end() }
    }

    /// Ends this socket, and, where it hadn't ended properly, the other one too: both by a reset, the other one's behind what was
    /// said before. What the client said before there was another socket waits for that.
    private func end() {
        guard !self.isOver else { return }
        self.isOver = true
        let isProper = self.inputIsClosed && self.outputIsClosed
        let partner = self.partner
        self.partner = nil
        partner?.partner = nil
        if isProper { self.channel.closeProperly() } else { self.channel.closeWithReset() }
        if let partner { self.leave(to: partner) }
        if !isProper { partner?.endBehindBytes() }
        self.done()
    }

    /// The other socket is the last of the two: its end is told.
    private func leave(to partner: ChannelRelay) {
        guard let onDone = self.onDone else { return }
        self.onDone = nil
        partner.onDone = onDone
    }

    private func endBehindBytes() {
        guard !self.isOver else { return }
        self.isOver = true
        ResetBehindBytes(self.channel) { .init(isWritten: !self.isSendingUrgent) }.look()
        self.channel.closeFuture.assumeIsolated().whenComplete { _ in self.done() }
    }

    private func done() {
        guard !self.isDialling else { return }
        let onDone = self.onDone
        self.onDone = nil
        onDone?()
    }
}

/// What all relays of an event loop keep for sockets that take nothing: many slow readers fill no memory.
public final class RelayMemory {
    fileprivate var used = 0
    fileprivate var hasRoom: Bool { self.used < Self.atMost }

    /// † Beyond it each keeps one small piece.
    private static let atMost = 32 * 1_024 * 1_024
    fileprivate static let small = FixedSizeRecvByteBufferAllocator(capacity: 8 * 1_024)

    public init() {}
}
