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

/// Hands a carrier's bytes to whoever drives the tunnel.
final class StreamCarrierHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    protocol Owner: AnyObject {
        func carrierOpened(_ carrier: StreamCarrier)
        func carrier(_ carrier: StreamCarrier, read bytes: ByteBuffer)
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
        self.owner?.carrier(self.carrier, read: Self.unwrapInboundIn(data))
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
        guard let owner = self.owner else { return }
        self.owner = nil
        guard self.wasOpened else { return }
        owner.carrierClosed(self.carrier)
    }
}
