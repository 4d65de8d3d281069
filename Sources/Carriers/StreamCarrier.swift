import HostSupport
import NIOCore
import Tunnel

/// One byte stream that carries messages: the bytes on one side, the framer on the other.
///
/// Bound to its channel's event loop, on which its owner lives too.
final class StreamCarrier {
    let id: CarrierID
    let channel: any Channel
    let openedAt: Instant
    var framer: MessageFramer
    /// Of a workspace's: where it leads, and the command behind it.
    let address: TunnelClient.Address?
    let command: FilterProcess?
    /// Why this side closes it, in a clause said of the address.
    var fault: String?
    /// Its turn is over: what it has said beyond it isn't looked at, and nothing more is read, until the next one.
    fileprivate(set) var waitsForTurn = false
    /// The stream has ended, and what came before its end waits.
    fileprivate(set) var hasEnded = false
    /// Reused for every batch: once the channel has written it, its storage is ours alone again.
    private var output = ByteBuffer()

    /// How much is sealed at once. What is sealed waits in order: a request behind it can't overtake it any more.
    private static let batch = 128 * 1_024

    init(
        id: CarrierID,
        channel: any Channel,
        framer: consuming MessageFramer,
        address: TunnelClient.Address? = nil,
        command: FilterProcess? = nil,
        at now: Instant
    ) {
        self.id = id
        self.channel = channel
        self.framer = framer
        self.address = address
        self.command = command
        self.openedAt = now
    }

    /// Writes messages as long as the channel takes them. The closure appends the next one, or says that there is none.
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
        // A burst's room isn't kept by a carrier that is idle.
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

    /// Takes messages until there is no whole one, or the turn is over. The closure says how much work one was.
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

/// Hands a carrier's bytes to whoever drives the tunnel.
final class StreamCarrierHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    protocol Owner: AnyObject {
        func carrierOpened(_ carrier: StreamCarrier)
        /// Its framer has something. Returns false when this peer's turn was over before all of it was taken.
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

    /// A reset, a timeout: the carrier is gone, which is nothing to report.
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
