import HostSupport
import NIOCore
import NIOPosix
import Tunnel

/// A workspace's carriers of datagrams: one at a time, and for a moment two, when the network has changed.
///
/// Nothing here fails for good. Where nobody answers, initiations go on beside whatever else carries the tunnel; a socket
/// that can't be had is asked for again.
final class DatagramDialler {
    private struct Carrier {
        let id: CarrierID
        let socket: TunnelSocket
        let route: DatagramRoute
        let address: TunnelClient.Address
        var isAnswered = false
    }

    let addresses: [TunnelClient.Address]
    /// Of the carrier that was answered last.
    private(set) var answeredAddress: TunnelClient.Address?
    private unowned let client: TunnelClient
    private let eventLoop: any EventLoop
    private var carriers: [Carrier] = []
    /// Which address's turn it is; and of those that its name had, another one each time around.
    private var turn = 0
    private var placesAtTurn = 1
    private var isStopped = true
    private var isOpening = false
    private var openedAt: Instant?
    private var retry: Scheduled<Void>?
    private var patience: Scheduled<Void>?

    /// An address that gave no answer makes room for the next one; with none, that is said. †
    private static let answerTimeout = TimeAmount.seconds(5)
    /// The same the first time around, where another one stands behind it. †
    private static let firstTimeout = TimeAmount.milliseconds(1_500)
    private static let pause = TimeAmount.seconds(1)
    private static let carriersAtMost = 2

    /// nil: none of the addresses is one for datagrams.
    init?(_ addresses: [TunnelClient.Address], client: TunnelClient) {
        self.addresses = addresses.filter(\.isDatagrams)
        self.client = client
        self.eventLoop = client.eventLoop
        if self.addresses.isEmpty { return nil }
    }

    func start() {
        self.isStopped = false
        if self.carriers.isEmpty { self.open() }
    }

    func stop() {
        let ids = self.carriers.map(\.id)
        self.closeSockets()
        for id in ids { self.client.initiator.carrierClosed(id, at: Clock.now()) }
    }

    /// The same where the client is gone.
    func closeSockets() {
        self.isStopped = true
        self.retry?.cancel()
        self.retry = nil
        self.patience?.cancel()
        for carrier in self.carriers { carrier.socket.close() }
        self.carriers.removeAll()
    }

    /// Another socket, whose datagrams leave from the address that this machine has now. The one before stays until the new
    /// one was answered.
    func reopen() {
        guard !self.isStopped else { return }
        if self.carriers.count >= Self.carriersAtMost, let oldest = self.carriers.first { self.forget(oldest.id) }
        self.open()
    }

    // MARK: Opening

    private func open() {
        guard !self.isStopped, !self.isOpening, self.client.isWanted else { return }
        self.retry?.cancel()
        self.retry = nil
        self.isOpening = true
        self.openedAt = Clock.now()
        let address = self.addresses[self.turn % self.addresses.count]
        guard case .udp(let host, let port) = address else { return }
        // Looking a name up may take its time, and is not done on the loop.
        NIOThreadPool.singleton.runIfActive(eventLoop: self.eventLoop) {
            try AddressLookup.addresses(of: host, port: port)
        }
        .assumeIsolated()
        .whenComplete { [weak self] result in
            guard let self else { return }
            self.isOpening = false
            do {
                let places = try result.get()
                self.placesAtTurn = places.count
                try self.open(address, at: places[self.turn / self.addresses.count % places.count])
            } catch {
                self.failed("\(address) can't be reached over UDP: \(Failure.describe(error))")
            }
        }
    }

    private func open(_ address: TunnelClient.Address, at place: SocketAddress) throws {
        guard !self.isStopped, self.client.isWanted, let remote = PathAddress(place) else { return }
        let wildcard = try SocketAddress(ipAddress: place.protocol == .inet6 ? "::" : "0.0.0.0", port: 0)
        let socket = try self.socket(at: wildcard, awayFrom: remote.port)
        let id = self.client.takeCarrierID()
        let route = DatagramRoute(remote: remote)
        self.carriers.append(Carrier(id: id, socket: socket, route: route, address: address))
        socket.startReading()
        self.client.initiator.carrierOpened(id, .datagrams, at: Clock.now())
        self.client.schedulePump()
        self.awaitAnswer(to: id)
    }

    /// A socket at any port but that which is dialled: where no sidecar is there now, it could be this machine's, and free.
    private func socket(at wildcard: SocketAddress, awayFrom port: UInt16) throws(HostError) -> TunnelSocket {
        func open() throws(HostError) -> TunnelSocket {
            try TunnelSocket.open(at: wildcard, wantsLocalAddress: false, eventLoop: self.eventLoop, owner: self)
        }
        let socket = try open()
        guard socket.localPort == port else { return socket }
        // Not before there is another: it would get the same one again.
        defer { socket.close() }
        return try open()
    }

    private func awaitAnswer(to id: CarrierID) {
        self.patience?.cancel()
        let hasOthers = self.addresses.count > 1 || self.placesAtTurn > 1
        let isFirstRound = self.turn < self.addresses.count * self.placesAtTurn
        let timeout = hasOthers && isFirstRound ? Self.firstTimeout : Self.answerTimeout
        self.patience = self.eventLoop.assumeIsolated().scheduleTask(in: timeout) { [weak self] in
            guard let self, let carrier = self.carriers.first(where: { $0.id == id }), !carrier.isAnswered else {
                return
            }
            // Said once all have had their turn.
            let isLast = (self.turn + 1) % (self.addresses.count * self.placesAtTurn) == 0
            if !hasOthers || isLast { self.say("\(carrier.address) \(TunnelClient.silenceOverDatagrams)") }
            guard hasOthers else { return }
            self.turn += 1
            self.forget(id)
            self.open()
        }
    }

    private func failed(_ reason: String) {
        self.say(reason)
        self.turn += 1
        self.openLater(in: Self.pause)
    }

    /// Worth saying only when nothing else carries the tunnel either.
    private func say(_ reason: String) {
        guard !self.client.isConnected else { return }
        self.client.delegate?.tunnelClient(self.client, dialFailed: reason, retryIn: Self.pause)
    }

    private func openLater(in delay: TimeAmount) {
        guard !self.isStopped, self.retry == nil else { return }
        self.retry = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            self?.retry = nil
            self?.open()
        }
    }

    // MARK: What the tunnel says

    func answered(_ id: CarrierID) {
        guard let at = self.carriers.firstIndex(where: { $0.id == id }) else { return }
        self.carriers[at].isAnswered = true
        self.answeredAddress = self.carriers[at].address
    }

    /// The tunnel wants it no more. Another one is tried, at once unless that was just done.
    func closed(_ id: CarrierID) {
        guard let carrier = self.remove(id) else { return }
        carrier.socket.close()
        guard self.carriers.isEmpty else { return }
        let hasRested = self.openedAt.map { Clock.now() - $0 >= Self.pause } ?? true
        self.openLater(in: max(self.client.pauseAfterEnding, hasRested ? .zero : Self.pause))
    }

    private func forget(_ id: CarrierID) {
        guard let carrier = self.remove(id) else { return }
        carrier.socket.close()
        self.client.initiator.carrierClosed(id, at: Clock.now())
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
                Self.fill(&batch, for: carrier, at: now, from: &self.client.initiator)
            }
        }
    }
}

extension DatagramDialler: TunnelSocket.Owner {
    func tunnelSocket(_ socket: TunnelSocket, read datagrams: Datagrams, from route: DatagramRoute, at now: Instant) {
        guard let id = self.carriers.first(where: { $0.socket === socket })?.id else { return }
        Self.take(datagrams, from: id, at: now, &self.client.initiator)
    }

    private static func take(_ datagrams: Datagrams, from id: CarrierID, at now: Instant, _ initiator: inout Initiator)
    {
        // From wherever they came: what opens is the sidecar's.
        datagrams.withEach { _ = initiator.receive($0, from: id, at: now) }
    }

    func tunnelSocketReadAll(_ socket: TunnelSocket, isEmpty: Bool) { self.client.pump() }

    func tunnelSocketIsWritable(_ socket: TunnelSocket) { self.client.pump() }

    func tunnelSocket(_ socket: TunnelSocket, refused size: Int, to route: DatagramRoute) {
        guard let carrier = self.carriers.first(where: { $0.socket === socket }) else { return }
        self.client.initiator.messageTooLong(size, on: carrier.id, at: Clock.now())
    }
}
