import HostSupport
import NIOCore
import Tunnel

/// One byte stream that carries messages: its channel, and the framer that cuts its bytes into messages.
///
/// It belongs to its channel's event loop, which its owner runs on too.
final class StreamCarrier {
    let id: CarrierID
    let kind: CarrierKind
    let channel: any Channel
    var framer: MessageFramer
    /// At the workspace: the address that was dialled, and the command or relay behind it, if any.
    let address: TunnelClient.Address?
    let relay: (any RelayedStream)?
    /// Why this side closes the carrier.
    var fault: DialFailure?
    /// The carrier's turn is over: further messages stay in the framer, and nothing is read, until its next turn.
    fileprivate(set) var waitsForTurn = false
    /// The stream has ended. What came before its end may still wait for a turn.
    fileprivate(set) var hasEnded = false
    /// Reused for every batch: once the channel has written it, no other reference to its storage is left.
    private var output = ByteBuffer()

    /// How much is sealed at a time. Sealed messages keep their order: a request can't overtake them any more.
    private static let batch = 128 * 1_024

    init(
        id: CarrierID,
        kind: CarrierKind = .stream,
        channel: any Channel,
        framer: consuming MessageFramer,
        address: TunnelClient.Address? = nil,
        relay: (any RelayedStream)? = nil
    ) {
        self.id = id
        self.kind = kind
        self.channel = channel
        self.framer = framer
        self.address = address
        self.relay = relay
    }

    /// Writes messages while the channel is writable. The closure appends the next one, or returns false if there is none.
    /// Returns whether anything was written.
    @discardableResult
    func pump(_ next: (inout ByteBuffer) -> Bool) -> Bool {
        var wroteAny = false
        while self.channel.isWritable {
            self.output.clear()
            while self.output.readableBytes < Self.batch,
                MessageFramer.frame(into: &self.output, body: { next(&$0) ? () : nil }) != nil
            {}
            guard self.output.readableBytes > 0 else { break }
            wroteAny = true
            self.channel.writeAndFlush(self.output, promise: nil)
        }
        // An idle carrier doesn't keep the room of a burst.
        if self.output.capacity > 2 * Self.batch { self.output = ByteBuffer() }
        return wroteAny
    }
}

extension StreamCarrier {
    enum Taken {
        case all
        case turnIsOver
        case violation
    }

    /// Hands out messages until none is complete, or the turn is over. The closure returns how much work the message was.
    func take(_ body: (ByteBuffer) -> Int) -> Taken {
        var turn = Turn()
        while true {
            switch self.framer.next() {
            case .message(let message): if turn.isOver(after: body(message)) { return .turnIsOver }
            case .needsMore: return .all
            case .violation: return .violation
            }
        }
    }

    fileprivate func readAutomatically(_ reads: Bool) {
        // A channel that is closed reads nothing anyway.
        try? self.channel.syncOptions?.setOption(.autoRead, value: reads)
    }
}

/// Hands a carrier's bytes to its owner, which drives the tunnel.
final class StreamCarrierHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    protocol Owner: AnyObject {
        func carrierOpened(_ carrier: StreamCarrier)
        /// The framer has bytes. Returns false if the peer's turn ended before all messages were taken.
        func carrierHasRead(_ carrier: StreamCarrier) -> Bool
        func carrierReadComplete(_ carrier: StreamCarrier)
        func carrierBecameWritable(_ carrier: StreamCarrier)
        func carrierClosed(_ carrier: StreamCarrier)
    }

    private let carrier: StreamCarrier
    private var owner: (any Owner)?
    private var wasOpened = false

    init(carrier: StreamCarrier, owner: any Owner) {
        self.carrier = carrier
        self.owner = owner
    }

    func channelActive(context: ChannelHandlerContext) {
        self.wasOpened = true
        self.owner?.carrierOpened(self.carrier)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.carrier.framer.append(Self.unwrapInboundIn(data))
        if !self.carrier.waitsForTurn { self.take() }
    }

    private func take() {
        guard let owner = self.owner, !owner.carrierHasRead(self.carrier) else { return }
        self.carrier.waitsForTurn = true
        self.carrier.readAutomatically(false)
        self.carrier.channel.eventLoop.inNextTurn {
            self.carrier.waitsForTurn = false
            self.take()
            self.owner?.carrierReadComplete(self.carrier)
            if self.carrier.waitsForTurn { return }
            if self.carrier.hasEnded { self.end() } else { self.carrier.readAutomatically(true) }
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) { self.owner?.carrierReadComplete(self.carrier) }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.owner?.carrierBecameWritable(self.carrier) }
    }

    func channelInactive(context: ChannelHandlerContext) { self.end() }

    /// A reset or a timeout: the carrier is gone, which needs no report.
    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    func handlerRemoved(context: ChannelHandlerContext) { self.end() }

    private func end() {
        self.carrier.hasEnded = true
        guard let owner = self.owner, !self.carrier.waitsForTurn else { return }
        self.owner = nil
        guard self.wasOpened else { return }
        owner.carrierClosed(self.carrier)
    }
}
