import HostSupport
import Libc
public import NIOCore
import NIOPosix

/// A UDP socket to one server, for one client's flow: everything is sent from one port, and replies are handed on.
///
/// If the target has several addresses and nothing listens at one (an ICMP error says so), the next is tried, and the latest
/// payloads are sent again there. Call it on its event loop; it calls back there, never from within a call.
public final class DatagramSocket {
    public enum Event {
        case payload(ByteBuffer)
        /// Nothing listens at any of the addresses, or none can be reached. The socket is closed.
        case failed(any Error)
    }

    private let target: DialTarget
    private let prepare: (@Sendable (CInt) -> Void)?
    private let eventLoop: any EventLoop
    private var onEvent: ((Event) -> Void)?
    private var index = 0
    private var channel: (any Channel)?
    private var hasAnswered = false
    /// The latest payloads that were sent to this address without an answer, or that wait for the socket.
    private var recent = RecentPayloads()

    /// - Parameter prepare: called with each socket's descriptor before it connects, to set the caller's options.
    public init(
        _ target: DialTarget,
        prepare: (@Sendable (CInt) -> Void)? = nil,
        on eventLoop: any EventLoop,
        _ onEvent: @escaping (Event) -> Void
    ) {
        self.target = target
        self.prepare = prepare
        self.eventLoop = eventLoop
        self.onEvent = onEvent
        self.connect()
    }

    /// Sends the payload, or drops it if the socket isn't writable: a datagram never waits for long.
    public func send(_ payload: ByteBuffer) {
        guard self.onEvent != nil else { return }
        if !self.hasAnswered { self.recent.append(payload, at: .now()) }
        guard let channel else { return }
        self.write(payload, to: channel)
    }

    /// From where to where it sends; nil: it isn't connected.
    public var addresses: (from: SocketAddress, to: SocketAddress)? {
        guard let from = self.channel?.localAddress, let to = self.channel?.remoteAddress else { return nil }
        return (from, to)
    }

    public func close() {
        self.onEvent = nil
        self.channel?.close(promise: nil)
        self.channel = nil
    }

    // MARK: The socket

    private func connect() {
        guard self.index < self.target.addresses.count else {
            return self.fail(IOError(errnoCode: ECONNREFUSED, reason: "connect"))
        }
        let address = self.target.addresses[self.index]
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        let prepare = self.prepare
        DatagramBootstrap(group: self.eventLoop)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 65_536))
            .channelInitializer { channel in
                if let prepare, let descriptor = channel.descriptor { prepare(descriptor) }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(DatagramSocketHandler(bound.value))
                }
            }
            .connect(to: address)
            .refusingItself()
            .assumeIsolated()
            .whenComplete { [weak self] result in
                switch result {
                case .success(let channel): self?.connected(channel) ?? channel.close(promise: nil)
                case .failure(let error): self?.refused(error)
                }
            }
    }

    private func connected(_ channel: any Channel) {
        guard self.onEvent != nil else { return channel.close(promise: nil) }
        self.channel = channel
        for payload in self.recent.payloads(at: .now()) { self.write(payload, to: channel) }
    }

    private func write(_ payload: ByteBuffer, to channel: any Channel) {
        guard channel.isWritable else { return }
        let promise = channel.eventLoop.makePromise(of: Void.self)
        promise.futureResult.assumeIsolated().whenFailure { [weak self] error in
            // A datagram too large for the path is lost, as any may be.
            guard SocketError.isRefusal(error) else { return }
            self?.socketFailed(channel, error)
        }
        channel.writeAndFlush(payload, promise: promise)
    }

    fileprivate func received(_ payload: ByteBuffer, on channel: any Channel) {
        guard channel === self.channel else { return }
        self.hasAnswered = true
        self.recent = RecentPayloads()
        self.onEvent?(.payload(payload))
    }

    fileprivate func socketFailed(_ channel: any Channel, _ error: any Error) {
        guard channel === self.channel else { return }
        self.channel = nil
        channel.close(promise: nil)
        self.refused(error)
    }

    private func refused(_ error: any Error) {
        guard self.onEvent != nil else { return }
        guard !self.hasAnswered, self.index + 1 < self.target.addresses.count else { return self.fail(error) }
        self.index += 1
        self.connect()
    }

    private func fail(_ error: any Error) {
        let onEvent = self.onEvent
        self.eventLoop.assumeIsolated().execute {
            guard self.onEvent != nil else { return }
            self.close()
            onEvent?(.failed(error))
        }
    }
}

/// The last payloads of a flow that were not answered: few, and for a short time.
public struct RecentPayloads {
    private var payloads: [(payload: ByteBuffer, at: NIODeadline)] = []
    private var byteCount = 0

    private static let countAtMost = 4  // †
    private static let bytesAtMost = 8 * 1_024  // †
    /// A client that gets no answer for this long sends again itself. †
    private static let lifetime = TimeAmount.seconds(2)

    public init() {}

    /// A payload larger than the bound isn't kept.
    public mutating func append(_ payload: ByteBuffer, at now: NIODeadline) {
        guard payload.readableBytes <= Self.bytesAtMost else { return }
        self.payloads.append((payload, now))
        self.byteCount += payload.readableBytes
        while self.payloads.count > Self.countAtMost || self.byteCount > Self.bytesAtMost {
            self.byteCount -= self.payloads.removeFirst().payload.readableBytes
        }
    }

    public func payloads(at now: NIODeadline) -> [ByteBuffer] {
        self.payloads.filter { now - $0.at < Self.lifetime }.map(\.payload)
    }
}

private final class DatagramSocketHandler: ChannelInboundHandler {
    typealias InboundIn = AddressedEnvelope<ByteBuffer>

    private weak var socket: DatagramSocket?

    init(_ socket: DatagramSocket) { self.socket = socket }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data).data
        var payload = ByteBuffer()
        payload.reserveCapacity(bytes.readableBytes)
        payload.writeImmutableBuffer(bytes)
        self.socket?.received(payload, on: context.channel)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.socket?.socketFailed(context.channel, error)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.socket?.socketFailed(context.channel, ChannelError.ioOnClosedChannel)
    }
}
