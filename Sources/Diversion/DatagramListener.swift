import Libc
public import NIOCore
import NIOPosix

#if os(Linux)
import CNetlink
#endif

/// A UDP socket to which clients of a service send.
///
/// Answers leave from the address that the client sent to, which on a machine with several addresses isn't always the one
/// that the kernel would choose. Everything happens on the channel's event loop.
public final class DatagramListener {
    /// A datagram, its client, and the address of this machine that it was sent to; nil if the system doesn't tell.
    public struct Arrival {
        public var payload: ByteBuffer
        public var client: SocketAddress
        public var called: SocketAddress?
    }

    private let channel: any Channel

    /// The maximum size of a datagram.
    static let greatest = 65_536
    /// The kernel's receive buffer, large enough for a burst of some thousand small datagrams. †
    static let receiveBuffer: CInt = 4 * 1_024 * 1_024

    init(_ channel: any Channel) { self.channel = channel }

    public var localAddress: SocketAddress? { self.channel.localAddress }

    /// Sends at once, or drops the payload: there is no queue.
    ///
    /// - Parameter called: `called` of the arrival that is answered.
    public func send(_ payload: ByteBuffer, to client: SocketAddress, from called: SocketAddress?) {
        #if os(Linux)
        guard let called else { return self.write(payload, to: client) }
        let sent = try? self.channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
            of: NIOBSDSocket.Handle.self
        ) { descriptor in
            payload.withUnsafeReadableBytes { bytes in
                client.withSockAddr { to, size in
                    called.withSockAddr { from, _ in
                        kl_send_from(descriptor, bytes.baseAddress, bytes.count, to, UInt32(size), from)
                    }
                }
            }
        }
        // No datagram can be sent from a broadcast address.
        if sent == -1, errno == EINVAL || errno == EADDRNOTAVAIL { self.write(payload, to: client) }
        #else
        self.write(payload, to: client)
        #endif
    }

    private func write(_ payload: ByteBuffer, to client: SocketAddress) {
        self.channel.writeAndFlush(AddressedEnvelope(remoteAddress: client, data: payload), promise: nil)
    }

    func close() { self.channel.close(promise: nil) }
}

extension ListenDiversion {
    /// Receives the datagrams that clients send to one service port. `take` is called on the event loop for each.
    public func listenForDatagrams(
        on source: Source,
        take: @escaping (DatagramListener, DatagramListener.Arrival) -> Void
    ) -> EventLoopFuture<SocketAddress?> {
        let taking = NIOLoopBound(take, eventLoop: self.eventLoop)
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        let bootstrap = DatagramBootstrap(group: self.eventLoop)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: DatagramListener.greatest))
            .channelOption(.maxMessagesPerRead, value: 64)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(ArrivalHandler(channel, taking.value))
                }
            }
        let bound =
            switch source {
            case .address(let host, let port): bootstrap.bind(host: host, port: port)
            case .socket(let descriptor): bootstrap.withBoundSocket(descriptor)
            }
        return bound.flatMap { channel in
            // Set after binding: the address family isn't known before.
            channel.setOption(.receivePacketInfo, value: true).map {
                this.value.keep(DatagramListener(channel))
                Self.enlargeBuffer(of: channel)
                return channel.localAddress
            }
        }
    }

    private static func enlargeBuffer(of channel: any Channel) {
        #if os(Linux)
        try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) {
            kl_enlarge_receive_buffer($0, DatagramListener.receiveBuffer)
        }
        #endif
    }
}

/// Passes each datagram on in a buffer of its own size.
private final class ArrivalHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private let listener: DatagramListener
    private let take: (DatagramListener, DatagramListener.Arrival) -> Void

    init(_ channel: any Channel, _ take: @escaping (DatagramListener, DatagramListener.Arrival) -> Void) {
        self.listener = DatagramListener(channel)
        self.take = take
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let envelope = Self.unwrapInboundIn(data)
        var payload = ByteBuffer()
        payload.reserveCapacity(envelope.data.readableBytes)
        payload.writeImmutableBuffer(envelope.data)
        let called = envelope.metadata?.packetInfo.map {
            $0.destinationAddress.scoped(toInterface: $0.interfaceIndex)
        }
        self.take(self.listener, .init(payload: payload, client: envelope.remoteAddress, called: called))
    }

    /// An error on the shared socket only says that some client is gone.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}
