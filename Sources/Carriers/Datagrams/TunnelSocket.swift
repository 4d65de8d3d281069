import CDatagrams
import HostSupport
import Libc
import NIOCore
import NIOPosix
import Tunnel

/// A UDP socket as a tunnel needs it: many messages in a system call both ways, the don't-fragment bit, and errors that cost
/// a message but never the socket.
///
/// It owns the descriptor and writes with `sendmmsg`. SwiftNIO reads from a duplicate: its channel closes itself on some
/// errors (when the network is lost, for one), and is then replaced by another on the same socket and port.
final class TunnelSocket {
    protocol Owner: AnyObject {
        func tunnelSocket(_ socket: TunnelSocket, read datagrams: Datagrams, from route: DatagramRoute, at now: Instant)
        /// A batch of reads was handed over; `isEmpty`: the socket had no more.
        func tunnelSocketReadAll(_ socket: TunnelSocket, isEmpty: Bool)
        func tunnelSocketIsWritable(_ socket: TunnelSocket)
        func tunnelSocket(_ socket: TunnelSocket, refused size: Int, to route: DatagramRoute)
    }

    private let eventLoop: any EventLoop
    private weak var owner: (any Owner)?
    private let descriptor: CInt
    private let isIPv6: Bool
    private var channel: (any Channel)?
    private var batch = DatagramBatch()
    private var isClosed = false
    private var retry: Scheduled<Void>?
    private var reads: UInt = 0
    /// Each datagram comes with the address that it was sent to, which a server needs and a client doesn't.
    private let wantsLocalAddress: Bool

    /// A full socket buffer drains within this time. UDP sockets are hardly ever full, so polling for writability isn't worth
    /// it. †
    private static let retryInterval = TimeAmount.milliseconds(1)
    private static let readsAtOnce: UInt = 16
    private static let reopenInterval = TimeAmount.milliseconds(100)

    /// Takes over the descriptor of a bound socket, and closes it in the end.
    init(
        descriptor: CInt,
        isIPv6: Bool,
        wantsLocalAddress: Bool = true,
        eventLoop: any EventLoop,
        owner: any Owner
    ) {
        self.wantsLocalAddress = wantsLocalAddress
        self.descriptor = descriptor
        self.isIPv6 = isIPv6
        self.eventLoop = eventLoop
        self.owner = owner
    }

    /// Opens a socket at this address; port 0 means any free port.
    static func open(
        at address: SocketAddress,
        wantsLocalAddress: Bool = true,
        eventLoop: any EventLoop,
        owner: any Owner
    ) throws(HostError) -> TunnelSocket {
        let (descriptor, isIPv6, _) = try Self.descriptor(boundTo: address)
        return TunnelSocket(
            descriptor: descriptor,
            isIPv6: isIPv6,
            wantsLocalAddress: wantsLocalAddress,
            eventLoop: eventLoop,
            owner: owner
        )
    }

    static func descriptor(
        boundTo address: SocketAddress
    ) throws(HostError) -> (descriptor: CInt, isIPv6: Bool, port: UInt16) {
        let what = "UDP \(address.ipAddress ?? ""):\(address.port ?? 0) can't be opened"
        guard let path = PathAddress(address) else { throw HostError(what, code: EAFNOSUPPORT) }
        let isIPv6 = address.protocol == .inet6
        var socketAddress = path.socketAddress(forIPv6Socket: isIPv6)
        let descriptor = kl_open_datagrams(&socketAddress)
        guard descriptor >= 0 else { throw HostError(what, code: errno) }
        return (descriptor, isIPv6, Libc.localPort(of: descriptor) ?? path.port)
    }

    deinit { if !self.isClosed { systemClose(self.descriptor) } }

    /// The port that the socket is bound to.
    var localPort: UInt16? { Libc.localPort(of: self.descriptor) }

    // MARK: Reading

    func startReading() {
        guard !self.isClosed else { return }
        let duplicate = fcntl(self.descriptor, F_DUPFD_CLOEXEC, 0)
        guard duplicate >= 0 else { return self.reopenLater() }
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        DatagramBootstrap(group: self.eventLoop)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
            .channelOption(.maxMessagesPerRead, value: Self.readsAtOnce)
            .channelOption(.receivePacketInfo, value: self.wantsLocalAddress)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handler = TunnelSocketHandler(socket: bound.value)
                    try channel.pipeline.syncOperations.addHandler(handler)
                    // Without GRO, the kernel hands over one datagram at a time.
                    channel.setOption(.datagramReceiveOffload, value: true)
                        .and(channel.setOption(.datagramReceiveSegmentSize, value: true))
                        .whenFailure { _ in }
                }
            }
            .withBoundSocket(duplicate)
            .assumeIsolated()
            .whenComplete { [weak self] result in
                guard let self else {
                    if case .success(let channel) = result { channel.close(promise: nil) }
                    return
                }
                switch result {
                case .success(let channel):
                    if self.isClosed { channel.close(promise: nil) } else { self.channel = channel }
                case .failure: self.reopenLater()
                }
            }
    }

    private func reopenLater() {
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.reopenInterval) { [weak self] in self?.startReading() }
    }

    fileprivate func read(_ envelope: AddressedEnvelope<ByteBuffer>) {
        guard !self.isClosed, let owner = self.owner, let remote = PathAddress(envelope.remoteAddress) else { return }
        self.reads += 1
        let local = envelope.metadata?.packetInfo.flatMap { PathAddress($0.destinationAddress) }
        let route = DatagramRoute(remote: remote, local: local)
        let datagrams = Datagrams(bytes: envelope.data, segment: envelope.metadata?.segmentSize ?? 0)
        owner.tunnelSocket(self, read: datagrams, from: route, at: Clock.now())
    }

    fileprivate func readAll() {
        let isEmpty = self.reads < Self.readsAtOnce
        self.reads = 0
        if !self.isClosed { self.owner?.tunnelSocketReadAll(self, isEmpty: isEmpty) }
    }

    fileprivate func channelClosed() {
        self.channel = nil
        if !self.isClosed { self.reopenLater() }
    }

    // MARK: Writing

    /// Sends messages while the socket takes them. The closure fills the batch up, as far as it has room and there are
    /// messages.
    func pump(_ fill: (inout DatagramBatch) -> Void) {
        guard !self.isClosed, self.retry == nil else { return }
        while true {
            fill(&self.batch)
            if self.batch.isEmpty { return }
            guard self.send() else { return self.retryLater() }
        }
    }

    private func send() -> Bool {
        self.batch.send(on: self.descriptor, isIPv6: self.isIPv6) { refusal in
            // A message refused for another reason counts as lost on the way.
            guard case .tooLong(let size, let route) = refusal else { return }
            self.owner?.tunnelSocket(self, refused: size, to: route)
        }
    }

    private func retryLater() {
        self.retry = self.eventLoop.assumeIsolated().scheduleTask(in: Self.retryInterval) { [weak self] in
            guard let self else { return }
            self.retry = nil
            guard !self.isClosed else { return }
            if self.send() { self.owner?.tunnelSocketIsWritable(self) } else { self.retryLater() }
        }
    }

    func close() {
        guard !self.isClosed else { return }
        self.isClosed = true
        self.retry?.cancel()
        self.channel?.close(promise: nil)
        systemClose(self.descriptor)
    }
}

/// What the kernel hands over at a time: one datagram, or with GRO several of the same size from one sender, of which the
/// last may be shorter.
struct Datagrams {
    let bytes: ByteBuffer
    /// The size of each datagram; 0: there is only one.
    let segment: Int

    func withEach(_ body: (ByteBuffer) -> Void) {
        var rest = self.bytes
        while self.segment > 0, rest.readableBytes > self.segment, let message = rest.readSlice(length: self.segment) {
            body(message)
        }
        body(rest)
    }
}

private final class TunnelSocketHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private var socket: TunnelSocket?

    init(socket: TunnelSocket) { self.socket = socket }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.socket?.read(Self.unwrapInboundIn(data)) }

    func channelReadComplete(context: ChannelHandlerContext) { self.socket?.readAll() }

    func channelInactive(context: ChannelHandlerContext) { self.end() }

    func handlerRemoved(context: ChannelHandlerContext) { self.end() }

    /// ICMP errors for single datagrams: ignored.
    func errorCaught(context: ChannelHandlerContext, error: any Error) {}

    private func end() {
        let socket = self.socket
        self.socket = nil
        socket?.channelClosed()
    }
}
