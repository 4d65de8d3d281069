import HostSupport
import NIOCore
import NIOPosix
import Tunnel

/// Dials UDP for a workspace: one carrier at a time, and two for a moment when the network has changed.
///
/// Nothing here fails for good. Without an answer, initiations go on while another carrier has the tunnel; a socket that
/// can't be opened is tried again.
final class DatagramDialler: Dialler {
    private struct Carrier {
        let id: CarrierID
        let socket: TunnelSocket
        let route: DatagramRoute
        let address: TunnelClient.Address
        var isAnswered = false
    }

    private enum State {
        case off
        /// A carrier is open, or there is no address.
        case idle
        /// The address is being looked up.
        case opening
        case waiting(Scheduled<Void>)
    }

    /// The address of the carrier that was answered last.
    private(set) var answeredAddress: TunnelClient.Address?
    private let tunnel: DialledTunnel
    private var order: DatagramDialOrder
    private var state = State.off
    private var carriers: [Carrier] = []
    private var openedAt: Instant?
    private var patience: Scheduled<Void>?

    private static let pause = TimeAmount.seconds(1)
    private static let carriersAtMost = 2

    init(_ addresses: [TunnelClient.Address], _ tunnel: DialledTunnel) {
        self.order = DatagramDialOrder(addresses)
        self.tunnel = tunnel
    }

    func start() {
        guard case .off = self.state else { return }
        self.state = .idle
        self.open()
    }

    func stop() {
        self.stopWaiting()
        self.state = .off
    }

    func closeCarriers() { for carrier in self.carriers { self.forget(carrier.id) } }

    func use(_ addresses: [TunnelClient.Address]) {
        let order = DatagramDialOrder(addresses)
        guard order.addresses != self.order.addresses else { return }
        self.order = order
        self.answeredAddress = nil
        self.closeCarriers()
        self.tunnel.owner?.schedulePump()
        self.stopWaiting()
        self.open()
    }

    /// Opens another socket, whose datagrams leave from the machine's current address. The earlier one stays until the new
    /// one is answered.
    func networkChanged() {
        if case .off = self.state { return }
        if self.carriers.count >= Self.carriersAtMost, let oldest = self.carriers.first { self.forget(oldest.id) }
        self.open()
    }

    // MARK: Opening

    private func stopWaiting() {
        self.patience?.cancel()
        guard case .waiting(let timer) = self.state else { return }
        timer.cancel()
        self.state = .idle
    }

    private func open() {
        switch self.state {
        case .off, .opening: return
        case .idle: break
        case .waiting(let timer): timer.cancel()
        }
        guard let address = self.order.address, case .udp(let host, let port) = address else {
            self.state = .idle
            return
        }
        self.state = .opening
        self.openedAt = Clock.now()
        // A name lookup may block, so it doesn't run on the event loop.
        NIOThreadPool.singleton.runIfActive(eventLoop: self.tunnel.eventLoop) {
            try AddressLookup.addresses(of: host, port: port)
        }
        .assumeIsolated()
        .whenComplete { [weak self] result in
            guard let self, case .opening = self.state else { return }
            self.state = .idle
            // Meanwhile other addresses may have come.
            guard self.order.address == address else { return self.open() }
            do {
                try self.open(address, at: self.order.place(of: try result.get()))
            } catch {
                self.failed(.unreachable(address, why: SocketError.describe(error)))
            }
        }
    }

    private func open(_ address: TunnelClient.Address, at place: SocketAddress) throws {
        guard let remote = PathAddress(place) else { return }
        let wildcard = try SocketAddress(ipAddress: place.protocol == .inet6 ? "::" : "0.0.0.0", port: 0)
        let socket = try self.socket(at: wildcard, awayFrom: remote.port)
        let id = self.tunnel.takeCarrierID()
        let route = DatagramRoute(remote: remote)
        self.carriers.append(Carrier(id: id, socket: socket, route: route, address: address))
        socket.startReading()
        self.tunnel.initiator.carrierOpened(id, .datagrams, at: Clock.now())
        self.tunnel.owner?.schedulePump()
        self.awaitAnswer(to: id)
    }

    /// A socket at any port but the dialled one: that could be this machine's, and free, if no sidecar is there now, and the
    /// socket would talk to itself.
    private func socket(at wildcard: SocketAddress, awayFrom port: UInt16) throws(HostError) -> TunnelSocket {
        func open() throws(HostError) -> TunnelSocket {
            try TunnelSocket.open(at: wildcard, wantsLocalAddress: false, eventLoop: self.tunnel.eventLoop, owner: self)
        }
        let socket = try open()
        guard socket.localPort == port else { return socket }
        // Closed only once the other one is open, which would otherwise get the same port.
        defer { socket.close() }
        return try open()
    }

    private func awaitAnswer(to id: CarrierID) {
        self.patience?.cancel()
        self.patience = self.tunnel.eventLoop.assumeIsolated().scheduleTask(in: self.order.timeout) { [weak self] in
            guard let self, let carrier = self.carriers.first(where: { $0.id == id }), !carrier.isAnswered else {
                return
            }
            // Reported once all addresses have been tried.
            if self.order.isLast { self.tunnel.report([.silent(carrier.address)], retryIn: Self.pause) }
            guard self.order.hasOthers else { return }
            self.order.next()
            self.forget(id)
            self.open()
        }
    }

    private func failed(_ failure: DialFailure) {
        self.tunnel.report([failure], retryIn: Self.pause)
        self.order.next()
        self.openLater(in: Self.pause)
    }

    private func openLater(in delay: TimeAmount) {
        guard case .idle = self.state else { return }
        self.state = .waiting(
            self.tunnel.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in self?.open() }
        )
    }

    // MARK: What the tunnel says

    func answered(_ id: CarrierID) {
        guard let at = self.carriers.firstIndex(where: { $0.id == id }) else { return }
        self.carriers[at].isAnswered = true
        self.answeredAddress = self.carriers[at].address
    }

    /// Another one is dialled: at once, or after a pause if this one was opened just before.
    func giveUp(_ id: CarrierID) {
        guard let carrier = self.remove(id) else { return }
        carrier.socket.close()
        guard self.carriers.isEmpty else { return }
        let hasRested = self.openedAt.map { Clock.now() - $0 >= Self.pause } ?? true
        self.openLater(in: max(self.tunnel.errorPauses.current ?? .zero, hasRested ? .zero : Self.pause))
    }

    private func forget(_ id: CarrierID) {
        guard let carrier = self.remove(id) else { return }
        carrier.socket.close()
        self.tunnel.initiator.carrierClosed(id, at: Clock.now())
    }

    private func remove(_ id: CarrierID) -> Carrier? {
        guard let at = self.carriers.firstIndex(where: { $0.id == id }) else { return nil }
        return self.carriers.remove(at: at)
    }

    private static func fill(
        _ batch: inout DatagramBatch,
        for carrier: Carrier,
        at now: Instant,
        from initiator: inout Initiator
    ) {
        batch.fill { initiator.writeNext(into: &$0, for: carrier.id, at: now) ? carrier.route : nil }
    }

    func pump(at now: Instant) {
        for carrier in self.carriers {
            carrier.socket.pump { batch in
                Self.fill(&batch, for: carrier, at: now, from: &self.tunnel.initiator)
            }
        }
    }
}

extension DatagramDialler: TunnelSocket.Owner {
    func tunnelSocket(_ socket: TunnelSocket, read datagrams: Datagrams, from route: DatagramRoute, at now: Instant) {
        guard let id = self.carriers.first(where: { $0.socket === socket })?.id else { return }
        Self.take(datagrams, from: id, at: now, &self.tunnel.initiator)
    }

    private static func take(_ datagrams: Datagrams, from id: CarrierID, at now: Instant, _ initiator: inout Initiator)
    {
        // From any source address: a message that opens is the sidecar's.
        datagrams.withEach { _ = initiator.receive($0, from: id, at: now) }
    }

    func tunnelSocketReadAll(_ socket: TunnelSocket, isEmpty: Bool) { self.tunnel.owner?.pump() }

    func tunnelSocketIsWritable(_ socket: TunnelSocket) { self.tunnel.owner?.pump() }

    func tunnelSocket(_ socket: TunnelSocket, refused size: Int, to route: DatagramRoute) {
        guard let carrier = self.carriers.first(where: { $0.socket === socket }) else { return }
        self.tunnel.initiator.messageTooLong(size, on: carrier.id, at: Clock.now())
    }
}
