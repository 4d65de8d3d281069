public import NIOCore
import NIOPosix
public import Noise
public import Tunnel

/// The sidecar's end of all its tunnels, with real sockets and a real clock.
///
/// Everything runs on one event loop: the carriers, the streams and the sockets that the agent ties to them.
public final class TunnelServer {
    public protocol Delegate: AnyObject {
        /// Called on the event loop, never from within a call that the delegate makes.
        /// Events of streams that have an owner go to that alone.
        func tunnelServer(_ server: TunnelServer, did event: Event)
        /// A message was dropped. The peer isn't told; this is for a rate-limited log line, the only caller that needs
        /// `remote`.
        func tunnelServer(_ server: TunnelServer, dropped reason: DropReason, from remote: () -> SocketAddress?)
    }

    public enum Event {
        /// A new connection. The end of an earlier one of its key was reported before.
        case established(ServerConnection)
        /// The connection goes on after its carrier was lost.
        case resumed(ServerConnection)
        /// The connection changed to another carrier or path, and was never without one.
        case moved(ServerConnection)
        case connection(ServerConnection, ConnectionEvent)
    }

    public let eventLoop: any EventLoop
    private weak var delegate: (any Delegate)?
    private var responder: Responder
    private var connections: [PublicKey: ServerConnection] = [:]
    private let maxMessageSize: Int
    private let timer: DeadlineTimer
    private var carriers: [StreamCarrier] = []
    /// Keys whose turn is over, and the stream that used it up: their other streams wait for that stream's next turn.
    private var turns: [PublicKey: CarrierID] = [:]
    private var nextCarrier: UInt64 = 1
    private var listeners: [any Channel] = []
    private var socket: TunnelSocket?
    private var pumpIsScheduled = false
    private var isDelivering = false

    /// - Precondition: called on the event loop, as every method here.
    public init(
        staticKey: StaticKeyPair,
        configuration: TunnelConfiguration,
        eventLoop: any EventLoop,
        delegate: any Delegate
    ) {
        eventLoop.preconditionInEventLoop()
        self.eventLoop = eventLoop
        self.delegate = delegate
        self.maxMessageSize = configuration.maxMessageSize
        self.responder = Responder(staticKey: staticKey, configuration: configuration, random: .system)
        self.timer = DeadlineTimer(eventLoop: eventLoop)
        self.timer.onDeadline = { [weak self] in self?.deadline() }
    }

    // MARK: For the agent

    /// Listens for byte streams, and returns the address; port 0 means any free port.
    public func listen(host: String, port: Int) -> EventLoopFuture<SocketAddress?> {
        self.listening(self.bootstrap.bind(host: host, port: port))
    }

    /// The same on a listening socket that the caller opened. It is closed with the others.
    public func listen(onBoundSocket descriptor: CInt) -> EventLoopFuture<SocketAddress?> {
        self.listening(self.bootstrap.withBoundSocket(descriptor))
    }

    /// Also listens on a socket of `DialSocket`, for `kl-sidecar dial` run by this user or root. Such a program has no more
    /// rights than any stranger on TCP.
    public func listen(onDialSocket descriptor: CInt) -> EventLoopFuture<Void> {
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        return ServerBootstrap(group: self.eventLoop)
            .childChannelOption(.recvAllocator, value: CarrierOptions.receiveAllocator)
            .childChannelOption(.writeBufferWaterMark, value: CarrierOptions.waterMark)
            .childChannelInitializer { channel in
                DialSocket.mayDial(channel).flatMapThrowing { mayDial in
                    guard mayDial else { throw DialSocket.Stranger() }
                    try bound.value.attach(channel, .relay)
                }
            }
            .withBoundSocket(descriptor)
            .map { bound.value.listeners.append($0) }
    }

    /// Receives datagrams too, and returns the port; port 0 means any free port. One socket serves all peers.
    public func listenForDatagrams(host: String, port: Int) throws -> UInt16 {
        let address = try SocketAddress.makeAddressResolvingHost(host, port: port)
        return self.takeDatagrams(try TunnelSocket.open(at: address, eventLoop: self.eventLoop, owner: self)) ?? 0
    }

    private func takeDatagrams(_ socket: TunnelSocket) -> UInt16? {
        self.socket = socket
        socket.startReading()
        return socket.localPort
    }

    /// The same on a bound socket that the caller opened.
    public func listenForDatagrams(onBoundSocket descriptor: CInt, isIPv6: Bool) {
        _ = self.takeDatagrams(
            TunnelSocket(descriptor: descriptor, isIPv6: isIPv6, eventLoop: self.eventLoop, owner: self)
        )
    }

    /// A socket for `listenForDatagrams`, opened in the network namespace of the calling thread. Returns the descriptor and
    /// its port.
    public static func openDatagrams(host: String, port: Int) throws -> (CInt, isIPv6: Bool, port: UInt16) {
        let address = try SocketAddress.makeAddressResolvingHost(host, port: port)
        return try TunnelSocket.descriptor(boundTo: address)
    }

    private func listening(_ channel: EventLoopFuture<any Channel>) -> EventLoopFuture<SocketAddress?> {
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        return channel.map { channel in
            bound.value.listeners.append(channel)
            return channel.localAddress
        }
    }

    private var bootstrap: ServerBootstrap {
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        return ServerBootstrap(group: self.eventLoop)
            .serverChannelOption(.backlog, value: 256)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.recvAllocator, value: CarrierOptions.receiveAllocator)
            .childChannelOption(.writeBufferWaterMark, value: CarrierOptions.waterMark)
            .carrierSocketOptions()
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try bound.value.attach(channel) }
            }
    }

    public func accept(_ key: PublicKey, presharedKey: PresharedKey) {
        self.responder.accept(key, presharedKey: presharedKey)
    }

    /// Stops accepting this key: its connection ends with REVOKED.
    public func revoke(_ key: PublicKey) {
        self.responder.revoke(key, at: Clock.now())
        self.schedulePump()
    }

    public var acceptedKeys: [PublicKey] { self.responder.acceptedKeys }

    public func close(_ key: PublicKey, _ code: ErrorCode) {
        self.responder.close(key, code, at: Clock.now())
        self.schedulePump()
    }

    /// Accepts no more byte streams. Open ones stay.
    public func stopListening() {
        for listener in self.listeners { listener.close(promise: nil) }
        self.listeners.removeAll()
    }

    /// The address from which the key's peer sends: of its datagrams, or else of its byte stream. Nil: the peer isn't
    /// connected, or its stream has no address.
    public func remoteAddress(of key: PublicKey) -> SocketAddress? {
        if let route = self.responder.link(of: key)?.datagramRoute { return SocketAddress(route.remote) }
        return self.carriers.first { self.responder.key(of: $0.id) == key }?.channel.remoteAddress
    }

    public var hasConnections: Bool { self.responder.hasConnections }
    public var drops: DropCounters { self.responder.drops }
    public var lastOldTimestamp: (sent: TAI64N, greatest: TAI64N)? { self.responder.lastOldTimestamp }

    private func attach(_ channel: any Channel, _ kind: CarrierKind = .stream) throws {
        let carrier = StreamCarrier(
            id: CarrierID(self.nextCarrier),
            kind: kind,
            channel: channel,
            framer: MessageFramer(role: .responder, maxMessageSize: self.maxMessageSize)
        )
        self.nextCarrier += 1
        try channel.pipeline.syncOperations.addHandler(StreamCarrierHandler(carrier: carrier, owner: self))
    }

    // MARK: Pumping

    /// Pumps once for all that happens in this turn of the loop, so that many small writes leave in one message.
    func schedulePump() {
        guard !self.pumpIsScheduled else { return }
        self.pumpIsScheduled = true
        self.eventLoop.assumeIsolated().execute {
            self.pumpIsScheduled = false
            self.pump()
        }
    }

    private func pump() {
        let now = Clock.now()
        self.deliverEvents()
        for carrier in self.carriers {
            carrier.pump { self.responder.writeNext(into: &$0, for: carrier.id, at: now) }
        }
        self.socket?.pump { Self.fill(&$0, from: &self.responder, at: now) }
        self.deliverEvents()
        self.timer.arm(for: self.responder.nextDeadline, now: now)
    }

    private static func fill(_ batch: inout DatagramBatch, from responder: inout Responder, at now: Instant) {
        batch.fill { responder.writeNextDatagram(into: &$0, at: now) }
    }

    private func deadline() {
        self.responder.handleDeadline(at: Clock.now())
        self.pump()
    }

    private func deliverEvents() {
        guard !self.isDelivering else { return }
        self.isDelivering = true
        defer { self.isDelivering = false }
        while let event = self.responder.nextEvent() {
            switch event {
            case .connection(let key, let event): self.deliver(event, of: key)
            case .established(let key):
                let connection = ServerConnection(key, self.responder.link(of: key), of: self)
                self.connections[key] = connection
                self.delegate?.tunnelServer(self, did: .established(connection))
            case .resumed(let key):
                if let connection = self.connections[key] {
                    self.delegate?.tunnelServer(self, did: .resumed(connection))
                }
            case .moved(let key):
                if let connection = self.connections[key] { self.delegate?.tunnelServer(self, did: .moved(connection)) }
            case .answered(let id): self.carriers.first { $0.id == id }?.framer.open()
            case .closeCarrier(let id): self.drop(id)
            }
        }
    }

    private func deliver(_ event: ConnectionEvent, of key: PublicKey) {
        guard let connection = self.connections[key], !connection.owners.tell(event) else { return }
        if case .ended = event {
            connection.ended()
            self.connections[key] = nil
        }
        self.delegate?.tunnelServer(self, did: .connection(connection, event))
    }

    private func drop(_ id: CarrierID) {
        guard let carrier = self.carriers.first(where: { $0.id == id }) else { return }
        carrier.framer.discard()
        carrier.channel.close(promise: nil)
    }
}

extension TunnelServer: StreamCarrierHandler.Owner {
    func carrierOpened(_ carrier: StreamCarrier) {
        let now = Clock.now()
        self.carriers.append(carrier)
        self.responder.carrierOpened(carrier.id, carrier.kind, at: now)
        self.deliverEvents()
        self.timer.arm(for: self.responder.nextDeadline, now: now)
    }

    func carrierHasRead(_ carrier: StreamCarrier) -> Bool {
        let now = Clock.now()
        if !self.turns.isEmpty {
            self.endTurn(of: carrier)
            if let key = self.responder.key(of: carrier.id), self.turns[key] != nil {
                guard carrier.hasEnded else { return false }
                // A stream that has ended doesn't wait for the turn of another: what it brought is unacknowledged, and the
                // peer sends it again on another carrier.
                carrier.framer.discard()
            }
        }
        let taken = carrier.take { message in
            switch self.responder.receive(message, from: carrier.id, at: now) {
            case .taken: carrier.framer.open()
            case .dropped(let reason):
                self.delegate?.tunnelServer(self, dropped: reason) { carrier.channel.remoteAddress }
            case .waits: break
            }
            return 1 + self.responder.framesInLastMessage
        }
        if case .violation = taken { self.drop(carrier.id) }
        guard case .turnIsOver = taken else { return true }
        if let key = self.responder.key(of: carrier.id) { self.turns[key] = carrier.id }
        return false
    }

    /// Found by the stream, which may no longer belong to a key.
    private func endTurn(of carrier: StreamCarrier) {
        if let ended = self.turns.first(where: { $0.value == carrier.id }) { self.turns[ended.key] = nil }
    }

    func carrierReadComplete(_ carrier: StreamCarrier) { self.pump() }

    func carrierBecameWritable(_ carrier: StreamCarrier) { self.pump() }

    func carrierClosed(_ carrier: StreamCarrier) {
        self.carriers.removeAll { $0 === carrier }
        self.endTurn(of: carrier)
        self.responder.carrierClosed(carrier.id, at: Clock.now())
        self.pump()
    }
}

extension TunnelServer: TunnelSocket.Owner {
    func tunnelSocket(_ socket: TunnelSocket, read datagrams: Datagrams, from route: DatagramRoute, at now: Instant) {
        datagrams.withEach { message in
            let verdict = self.responder.receive(datagram: message, from: route, at: now)
            guard case .dropped(let reason) = verdict else { return }
            self.delegate?.tunnelServer(self, dropped: reason) { SocketAddress(route.remote) }
        }
    }

    func tunnelSocketReadAll(_ socket: TunnelSocket, isEmpty: Bool) {
        if isEmpty { self.responder.readAllDatagrams() }
        self.pump()
    }

    func tunnelSocketIsWritable(_ socket: TunnelSocket) { self.pump() }

    func tunnelSocket(_ socket: TunnelSocket, refused size: Int, to route: DatagramRoute) {
        self.responder.messageTooLong(size, to: route, at: Clock.now())
    }
}
