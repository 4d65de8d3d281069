import HostSupport
import NIOCore
import NIOPosix
import Tunnel

/// Dials UDP for a workspace: one carrier at a time, and two for a moment when the network has changed.
///
/// Nothing here fails for good. Without an answer, initiations go on while another carrier has the tunnel; a socket that
/// can't be opened is tried again.
final class DatagramDialler {
    private struct Carrier {
        let id: CarrierID
        let socket: TunnelSocket
        let route: DatagramRoute
        let address: TunnelClient.Address
        var isAnswered = false
    }

    let addresses: [TunnelClient.Address]
    /// The address of the carrier that was answered last.
    private(set) var answeredAddress: TunnelClient.Address?
    private unowned let client: TunnelClient
    private let eventLoop: any EventLoop
    private var carriers: [Carrier] = []
    /// Counts the addresses tried; each time around, a name's next IP address is used. `placesAtTurn`: how many the current
    /// name has.
    private var turn = 0
    private var placesAtTurn = 1
    private var isStopped = true
    private var isOpening = false
    private var openedAt: Instant?
    private var retry: Scheduled<Void>?
    private var patience: Scheduled<Void>?

    /// The time to answer. Then the next address is tried; once all were tried, that is reported. †
    private static let answerTimeout = TimeAmount.seconds(5)
    /// The time to answer in the first round, if there is a next address. †
    private static let firstTimeout = TimeAmount.milliseconds(1_500)
    private static let pause = TimeAmount.seconds(1)
    private static let carriersAtMost = 2

    /// nil: none of the addresses is a UDP address.
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

    /// `stop` without telling the client, which is being destroyed.
    func closeSockets() {
        self.isStopped = true
        self.retry?.cancel()
        self.retry = nil
        self.patience?.cancel()
        for carrier in self.carriers { carrier.socket.close() }
        self.carriers.removeAll()
    }

    /// Opens another socket, whose datagrams leave from the machine's current address. The earlier one stays until the new
    /// one is answered.
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
        // A name lookup may block, so it doesn't run on the event loop.
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

    /// A socket at any port but the dialled one: that could be this machine's, and free, if no sidecar is there now, and the
    /// socket would talk to itself.
    private func socket(at wildcard: SocketAddress, awayFrom port: UInt16) throws(HostError) -> TunnelSocket {
        func open() throws(HostError) -> TunnelSocket {
            try TunnelSocket.open(at: wildcard, wantsLocalAddress: false, eventLoop: self.eventLoop, owner: self)
        }
        let socket = try open()
        guard socket.localPort == port else { return socket }
        // Closed only once the other one is open, which would otherwise get the same port.
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
            // Reported once all addresses have been tried.
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

    /// Reports a failure, unless another carrier has the tunnel.
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

    /// The tunnel has closed the carrier. Another one is dialled: at once, or after a pause if this one was opened just
    /// before.
    func closed(_ id: CarrierID) {
        guard let carrier = self.remove(id) else { return }
        carrier.socket.close()
        guard self.carriers.isEmpty else { return }
        let hasRested = self.openedAt.map { Clock.now() - $0 >= Self.pause } ?? true
        self.openLater(in: max(self.client.pauses.afterEnding ?? .zero, hasRested ? .zero : Self.pause))
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
        // From any source address: a message that opens is the sidecar's.
        datagrams.withEach { _ = initiator.receive($0, from: id, at: now) }
    }

    func tunnelSocketReadAll(_ socket: TunnelSocket, isEmpty: Bool) { self.client.pump() }

    func tunnelSocketIsWritable(_ socket: TunnelSocket) { self.client.pump() }

    func tunnelSocket(_ socket: TunnelSocket, refused size: Int, to route: DatagramRoute) {
        guard let carrier = self.carriers.first(where: { $0.socket === socket }) else { return }
        self.client.initiator.messageTooLong(size, on: carrier.id, at: Clock.now())
    }
}
