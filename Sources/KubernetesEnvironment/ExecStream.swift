import FoundationEssentials
import HostSupport
import InterceptModel
import NIOCore
import NIOWebSocket

/// Standard input, output and error of a program that the kubelet runs in a container, as the API server's WebSocket protocol
/// `v5.channel.k8s.io` carries them: each message begins with the number of its stream.
///
/// To the handlers behind it the channel is the program's standard input and output, as bytes. Lives on its channel's event loop.
final class ExecStream: ChannelDuplexHandler, RelayedStream {
    typealias InboundIn = WebSocketFrame
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = WebSocketFrame

    static let subprotocol = "v5.channel.k8s.io"
    /// † The API server and the kubelet send at most 32 KiB.
    static let frameAtMost = 1_048_576
    /// † As `kubectl` sends them: others behind wait for a whole message.
    private static let sentAtMost = 32 * 1_024
    private static let errorsAtMost = 16 * 1_024
    private static let lineAtMost = 200

    private enum Number {
        static let standardInput: UInt8 = 0
        static let standardOutput: UInt8 = 1
        static let standardError: UInt8 = 2
        /// How the program ended, as a `Status` in JSON.
        static let end: UInt8 = 3
    }

    /// How the program ended, as the API server says it.
    struct End: Equatable, Sendable {
        /// Nil: the kubelet couldn't run it, or the API server lost it.
        var code: Int32?
        /// The server's, on one line; empty if the program ended by itself.
        var message: String
    }

    private var context: ChannelHandlerContext?
    private var hasBegun = false
    /// What came before it began: at most what the channel reads in one turn.
    private var early: [WebSocketFrame] = []
    /// The stream of a message whose continuation may come.
    private var number = Number.end
    private var endText: [UInt8] = []
    /// The end of standard error.
    private(set) var errors: [UInt8] = []
    private(set) var isOver = false
    private var told: [(String) -> Void] = []
    private let onOver: () -> Void
    private var onSpeaking: (() -> Void)?

    /// - Parameters:
    ///   - onSpeaking: called once, when the program's first output comes, or at the end.
    ///   - onOver: called once, after the handlers behind it have seen the channel's end.
    init(onSpeaking: @escaping () -> Void = {}, onOver: @escaping () -> Void) {
        self.onSpeaking = onSpeaking
        self.onOver = onOver
    }

    /// The handlers behind it are there: they see an active channel from now on.
    func begin() {
        guard let context, !self.hasBegun, !self.isOver else { return }
        self.hasBegun = true
        context.fireChannelActive()
        let early = self.early
        self.early = []
        for frame in early { self.take(frame, context) }
        if !early.isEmpty { context.fireChannelReadComplete() }
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.over()
        self.context = nil
    }

    // MARK: Inbound

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = Self.unwrapInboundIn(data)
        if self.hasBegun { self.take(frame, context) } else { self.early.append(frame) }
    }

    private func take(_ frame: WebSocketFrame, _ context: ChannelHandlerContext) {
        var bytes = frame.unmaskedData
        switch frame.opcode {
        case .binary:
            guard let number = bytes.readInteger(as: UInt8.self) else { return }
            self.number = number
            self.take(bytes, context)
        case .continuation: self.take(bytes, context)
        // A server that reads no answers gets no more of them.
        case .ping: if context.channel.isWritable { self.send(.pong, bytes, context) }
        case .connectionClose: context.close(promise: nil)
        default: break
        }
    }

    private func take(_ bytes: ByteBuffer, _ context: ChannelHandlerContext) {
        guard bytes.readableBytes > 0 else { return }
        switch self.number {
        case Number.standardOutput:
            self.speaks()
            context.fireChannelRead(Self.wrapInboundOut(bytes))
        case Number.standardError: Self.append(bytes, to: &self.errors)
        case Number.end: Self.append(bytes, to: &self.endText)
        default: break
        }
    }

    /// Only the end is kept.
    private static func append(_ bytes: ByteBuffer, to kept: inout [UInt8]) {
        kept += bytes.readableBytesView.suffix(Self.errorsAtMost)
        if kept.count > Self.errorsAtMost { kept.removeFirst(kept.count - Self.errorsAtMost) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        // A program that ended at once: what it said comes first.
        self.begin()
        context.fireChannelInactive()
        self.over()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    // MARK: Outbound

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        var bytes = Self.unwrapOutboundIn(data)
        while bytes.readableBytes > Self.sentAtMost, let piece = bytes.readSlice(length: Self.sentAtMost) {
            self.send(Number.standardInput, piece, context, nil)
        }
        self.send(Number.standardInput, bytes, context, promise)
    }

    private func send(
        _ number: UInt8,
        _ bytes: ByteBuffer,
        _ context: ChannelHandlerContext,
        _ promise: EventLoopPromise<Void>?
    ) {
        var message = context.channel.allocator.buffer(capacity: 1 + bytes.readableBytes)
        message.writeInteger(number)
        message.writeImmutableBuffer(bytes)
        let frame = WebSocketFrame(fin: true, opcode: .binary, maskKey: .random(), data: message)
        context.write(Self.wrapOutboundOut(frame), promise: promise)
    }

    private func send(_ opcode: WebSocketOpcode, _ bytes: ByteBuffer, _ context: ChannelHandlerContext) {
        let frame = WebSocketFrame(fin: true, opcode: opcode, maskKey: .random(), data: bytes)
        context.writeAndFlush(Self.wrapOutboundOut(frame), promise: nil)
    }

    // MARK: The end

    /// Nil: the API server said nothing of it.
    var programEnd: End? { Self.end(self.endText) }

    static func end(_ text: [UInt8]) -> End? {
        struct Status: Decodable {
            struct Details: Decodable { var causes: [Cause]? }
            struct Cause: Decodable {
                var reason: String?
                var message: String?
            }
            var status: String?
            var message: String?
            var details: Details?
        }
        guard let status = try? JSONDecoder().decode(Status.self, from: Data(text)) else { return nil }
        if status.status == "Success" { return End(code: 0, message: "") }
        let code = status.details?.causes?.first { $0.reason == "ExitCode" }?.message.flatMap { Int32($0) }
        return End(code: code, message: code == nil ? (status.message ?? "it gives no reason").printable : "")
    }

    func end(after delay: TimeAmount, telling told: @escaping (_ reason: String) -> Void) {
        if self.isOver { return told(self.reason) }
        self.told.append(told)
        guard let channel = self.context?.channel else { return self.over() }
        channel.eventLoop.assumeIsolated().scheduleTask(in: delay) { channel.close(promise: nil) }
    }

    private func speaks() {
        guard let onSpeaking = self.onSpeaking else { return }
        self.onSpeaking = nil
        onSpeaking()
    }

    private func over() {
        guard !self.isOver else { return }
        self.isOver = true
        self.speaks()
        let told = self.told
        self.told = []
        for tell in told { tell(self.reason) }
        self.onOver()
    }

    /// As a clause: "ended with code 1: no sidecar runs here".
    private var reason: String {
        guard let end = self.programEnd else { return "lost its connection to the API server" }
        let lines = self.errors.split { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }
            .map { String(decoding: $0, as: UTF8.self).visibleText }
        let line = String((lines.last { !$0.isEmpty } ?? "").prefix(Self.lineAtMost))
        let how = end.code.map { "ended with code \($0)" } ?? "ended: \(end.message)"
        return line.isEmpty ? how : "\(how): \(line)"
    }
}
