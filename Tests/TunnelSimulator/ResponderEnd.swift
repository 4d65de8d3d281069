import NIOCore
public import Noise
public import Tunnel

/// A sidecar's end: it accepts every carrier, and opens streams on connections of accepted keys.
public final class ResponderEnd: End {
    public let staticKey: StaticKeyPair
    public var configuration: TunnelConfiguration
    public var tunnel: Responder
    public private(set) var events: [Responder.Event] = []
    private var accepted: [(key: PublicKey, presharedKey: PresharedKey)] = []
    var traffic: [PublicKey: Traffic] = [:]
    /// How many streams are opened on a new connection.
    var streamsToOpen = 0
    private(set) var replacements = 0
    private(set) var established = 0

    init(_ name: String, staticKey: StaticKeyPair, configuration: TunnelConfiguration, world: World) {
        self.staticKey = staticKey
        self.configuration = configuration
        self.tunnel = Responder(
            staticKey: staticKey,
            configuration: configuration,
            random: world.random.fork().source
        )
        super.init(name, role: .responder, maxMessageSize: configuration.maxMessageSize, world: world)
    }

    public func accept(_ key: PublicKey, presharedKey: PresharedKey = .none) {
        self.accepted.append((key, presharedKey))
        self.tunnel.accept(key, presharedKey: presharedKey)
    }

    func presharedKey(of key: PublicKey) -> PresharedKey? { self.accepted.first { $0.key == key }?.presharedKey }

    /// The program ends without CONNECTION_CLOSE and is started again.
    public func restart() throws(SimulationFailure) {
        self.world.log("\(self.name): restarts")
        let arena = self.tunnel.secretArena
        for attachment in self.attachments { attachment.carrier?.cut(at: self.world.now, losing: false) }
        self.attachments.removeAll()
        self.traffic.removeAll()
        self.tunnel = Responder(
            staticKey: self.staticKey,
            configuration: self.configuration,
            random: self.world.random.fork().source
        )
        for (key, presharedKey) in self.accepted { self.tunnel.accept(key, presharedKey: presharedKey) }
        guard arena.liveSecrets == 0 else { throw self.world.failure("\(self.name) left \(arena.liveSecrets) secrets") }
    }

    // MARK: The tunnel

    override var deadline: Instant? { self.tunnel.nextDeadline }
    override func handleDeadline() { self.tunnel.handleDeadline(at: self.now) }
    override func opened(_ id: CarrierID) { self.tunnel.carrierOpened(id, at: self.now) }
    override func closed(_ id: CarrierID) { self.tunnel.carrierClosed(id, at: self.now) }

    override func take(_ message: ByteBuffer, from id: CarrierID) -> MessageVerdict {
        self.tunnel.receive(message, from: id, at: self.now)
    }

    override func writeNext(into buffer: inout ByteBuffer, for id: CarrierID) -> Bool {
        self.tunnel.writeNext(into: &buffer, for: id, at: self.now)
    }

    override func deliverEvents() throws(SimulationFailure) {
        while let event = self.tunnel.nextEvent() {
            self.world.log("\(self.name): \(event)")
            self.events.append(event)
            switch event {
            case .established(let key):
                self.established += 1
                try self.withConnection(of: key) { connection throws(SimulationFailure) in
                    self.traffic[key] = Traffic(
                        connection.number,
                        role: .responder,
                        toOpen: self.world.isSettling ? 1 : self.streamsToOpen,
                        world: self.world
                    )
                }
            case .resumed, .moved: break
            case .answered(let id):
                guard let attachment = self.attachments.first(where: { $0.id == id }) else { break }
                attachment.hasTaken = true
                attachment.framer.open()
            case .closeCarrier(let id):
                try self.checkPatience(id)
                self.close(id)
            case .connection(let key, .ended(let end)):
                if end.code == .replaced { self.replacements += 1 }
                self.traffic[key] = nil
                try self.world.ended(end, at: self)
            case .connection(let key, let event):
                try self.withConnection(of: key) { connection throws(SimulationFailure) in
                    try self.traffic[key]?.handle(event, &connection)
                }
            }
        }
    }

    func withConnection(
        of key: PublicKey,
        _ body: (inout Connection) throws(SimulationFailure) -> Void
    ) throws(SimulationFailure) {
        let failure = self.tunnel.withConnection(of: key) { connection -> SimulationFailure? in
            do throws(SimulationFailure) {
                try body(&connection)
                return nil
            } catch { return error }
        }
        if let failure, let failure { throw failure }
    }

    override var nextWake: Int64? {
        var next: Int64?
        for traffic in self.traffic.values {
            if let time = traffic.nextWake { next = min(next ?? time, time) }
        }
        return next
    }

    override func wake() throws(SimulationFailure) {
        for (key, _) in self.accepted {
            guard let traffic = self.traffic[key] else { continue }
            try self.withConnection(of: key) { connection throws(SimulationFailure) in
                try traffic.wake(&connection)
            }
        }
    }

    // MARK: Datagrams

    override func takeDatagrams() throws(SimulationFailure) {
        for lane in self.world.lanes(to: self) {
            while let datagram = lane.read(at: self.world.now) {
                try self.world.attacker?.precede(datagram.bytes, at: self, from: datagram.from)
                try self.take(datagram.bytes, from: datagram.from)
            }
        }
        self.tunnel.readAllDatagrams()
    }

    @discardableResult
    func take(_ datagram: ByteBuffer, from address: PathAddress) throws(SimulationFailure) -> MessageVerdict {
        self.world.watch?.received(datagram, from: address)
        let verdict = self.tunnel.receive(datagram: datagram, from: DatagramRoute(remote: address), at: self.now)
        switch verdict {
        case .taken: self.world.watch?.took(from: address)
        case .dropped(let reason):
            self.world.log("\(self.name): drops a datagram of type \(datagram.messageType): \(reason.label)")
        case .waits: break
        }
        for (key, _) in self.accepted {
            if let path = self.tunnel.path(of: key) { try self.world.watch?.uses(path, self.world) }
        }
        try self.deliverEvents()
        return verdict
    }

    override func sendDatagrams() throws(SimulationFailure) {
        while true {
            self.output.clear()
            guard let route = self.tunnel.writeNextDatagram(into: &self.output, at: self.now) else { return }
            let message = ByteBuffer(bytes: self.output.readableBytesView)
            try self.world.sealed(datagram: message, by: self)
            let line = self.world.lines.first { $0.outside == route.remote }
            if let greatest = line?.refusesAbove, message.readableBytes > greatest {
                self.tunnel.messageTooLong(message.readableBytes, to: route, at: self.now)
            } else {
                try self.world.deliver(message, to: route)
            }
        }
    }

    // MARK: Bounds

    /// A carrier without a valid initiation is closed after five seconds, and not sooner unless too many wait.
    private func checkPatience(_ id: CarrierID) throws(SimulationFailure) {
        guard let attachment = self.attachments.first(where: { $0.id == id }), !attachment.hasTaken else { return }
        let waiting = self.attachments.count { $0.isOpen && !$0.hasTaken }
        let waited = self.now - attachment.openedAt
        try self.world.check(
            waited >= .seconds(5) || waiting >= 64,
            "a stranger was closed after \(waited.nanoseconds) ns"
        )
    }

    override var digest: Int {
        var hasher = Hasher()
        self.tunnel.hash(into: &hasher)
        return hasher.finalize()
    }

    override var connectionDigest: Int {
        var hasher = Hasher()
        for (key, _) in self.accepted { _ = self.tunnel.withConnection(of: key) { $0.hash(into: &hasher) } }
        return hasher.finalize()
    }

    override func checkBounds() throws(SimulationFailure) {
        for attachment in self.attachments where attachment.isOpen && !attachment.hasTaken {
            try self.world.check(self.now - attachment.openedAt <= .seconds(5), "a stranger was kept")
        }
        var sessions = 0
        var promised: UInt64 = 0
        for (key, _) in self.accepted {
            let unconfirmed = self.tunnel.unconfirmedCount(of: key)
            let confirmed = self.tunnel.sessionCount(of: key)
            try self.world.check(unconfirmed <= 4, "\(unconfirmed) unconfirmed sessions of one key")
            try self.world.check(confirmed <= 4, "\(confirmed) sessions of one connection")
            try self.world.check(self.tunnel.closingCount(of: key) <= 4, "many connections that close")
            sessions += unconfirmed + confirmed + 4 * self.tunnel.closingCount(of: key)
            try self.withConnection(of: key) { connection throws(SimulationFailure) in
                let inspection = connection.inspection
                try self.world.checkBounds(of: inspection, self.configuration, at: self)
                let least = self.configuration.connectionMemoryAtLeast
                promised += inspection.promised - min(inspection.promised, least)
            }
        }
        try self.world.check(promised <= self.configuration.streamMemory, "\(promised) bytes promised to all together")
        try self.world.check(self.tunnel.datagramAnswerCount <= 256, "many answers wait")
        try self.world.check(self.tunnel.sessionCount <= sessions, "sessions that belong to nobody")
        try self.world.check(
            self.tunnel.secretArena.liveSecrets <= 2 * self.tunnel.sessionCount,
            "\(self.tunnel.secretArena.liveSecrets) secrets for \(self.tunnel.sessionCount) sessions"
        )
    }
}
