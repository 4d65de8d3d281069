import NIOCore
public import Noise
public import Tunnel

/// A workspace's end: it dials, and dials again, while its program runs.
public final class InitiatorEnd: End {
    public var configuration: Initiator.Configuration
    public var tunnel: Initiator
    public private(set) var events: [Initiator.Event] = []
    /// For story tests: false leaves all dialling to the test.
    public var dialsByItself = true
    let wallClock: WallClock
    var traffic: Traffic?
    /// When it dials next, in the world's time; nil: no dialling is planned.
    var dialAt: Int64?
    private var attempts = 0
    /// Its datagram path, if it has one; and whether it dials byte streams, too.
    var line: DatagramLine?
    var hasStreams = true
    var openSocketAt: Int64?
    private var socketsOpened = 0
    private var dateWasChanged = false
    private(set) var replacements = 0
    private(set) var established = 0

    private static let backoff: [Int64] = [0, 1_000_000_000, 2_000_000_000, 4_000_000_000, 5_000_000_000]

    init(_ name: String, _ configuration: Initiator.Configuration, world: World) {
        let wallClock = WallClock(world)
        self.configuration = configuration
        self.wallClock = wallClock
        self.tunnel = Initiator(configuration, random: world.random.fork().source) { wallClock.now }
        super.init(name, role: .initiator, maxMessageSize: configuration.tunnel.maxMessageSize, world: world)
        self.dialAt = world.now
        self.openSocketAt = world.now
    }

    public var key: PublicKey { self.configuration.staticKey.publicKey }

    /// The program ends without CONNECTION_CLOSE and is started again: its carriers break, and its keys are gone.
    func restart() throws(SimulationFailure) {
        self.world.log("\(self.name): restarts")
        let arena = self.tunnel.secretArena
        // A program whose clock has gone back is refused until the clock catches up, unless it remembers its last timestamp.
        if self.dateWasChanged || self.random.isOne(in: 2) {
            self.configuration.lastTimestamp = self.tunnel.lastTimestamp
        }
        for attachment in self.attachments { attachment.carrier?.cut(at: self.world.now, losing: false) }
        self.attachments.removeAll()
        self.line?.socket = nil
        self.traffic = nil
        let wallClock = self.wallClock
        self.tunnel = Initiator(self.configuration, random: self.world.random.fork().source) { wallClock.now }
        guard arena.liveSecrets == 0 else { throw self.world.failure("\(self.name) left \(arena.liveSecrets) secrets") }
        self.attempts = 0
        self.socketsOpened = 0
        self.dialAt = self.world.now
        self.openSocketAt = self.world.now
    }

    func changeDate(by nanoseconds: Int64) {
        // A program that has not shaken hands yet can't know that the date was set back, so it is only set forwards.
        self.wallClock.offset += self.tunnel.lastTimestamp == nil ? abs(nanoseconds) : nanoseconds
        self.dateWasChanged = true
    }

    // MARK: The tunnel

    override var deadline: Instant? { self.tunnel.nextDeadline }
    override func handleDeadline() { self.tunnel.handleDeadline(at: self.now) }

    override func opened(_ id: CarrierID) {
        if self.isRunning { self.tunnel.carrierOpened(id, at: self.now) } else { self.close(id) }
    }

    override func closed(_ id: CarrierID) {
        self.tunnel.carrierClosed(id, at: self.now)
        guard self.attachments.isEmpty, self.isRunning else { return }
        let step = Self.backoff[min(self.attempts, Self.backoff.count - 1)]
        self.attempts += 1
        self.dialAt = self.world.now + step
    }

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
            case .established:
                self.attempts = 0
                self.established += 1
                try self.withConnection { connection throws(SimulationFailure) in
                    let traffic = Traffic(connection.number, role: .initiator, toOpen: 0, world: self.world)
                    try traffic.openControl(&connection)
                    self.traffic = traffic
                }
            case .resumed: self.attempts = 0
            case .closeCarrier(let id): if self.line?.socket == id { self.closeSocket() } else { self.close(id) }
            case .answered(let id): if self.line?.socket == id { self.socketsOpened = 0 }
            case .datagramsAreLost:
                // A byte stream is needed now.
                if self.attachments.isEmpty, self.dialAt != nil { self.dialAt = self.world.now }
            case .presharedKeysDiffer, .moved, .sidecarIsBusy: break
            case .connection(.ended(let end)):
                self.traffic = nil
                if end.code == .replaced { self.replacements += 1 }
                if end.origin == .peer, [.replaced, .revoked, .done].contains(end.code) { self.isRunning = false }
                try self.world.ended(end, at: self)
            case .connection(let event):
                try self.withConnection { connection throws(SimulationFailure) in
                    try self.traffic?.handle(event, &connection)
                }
            }
        }
    }

    func withConnection(
        _ body: (inout Connection) throws(SimulationFailure) -> Void
    ) throws(SimulationFailure) {
        let failure = self.tunnel.withConnection { connection -> SimulationFailure? in
            do throws(SimulationFailure) {
                try body(&connection)
                return nil
            } catch { return error }
        }
        if let failure, let failure { throw failure }
    }

    // MARK: Datagrams

    override func isHeld(_ id: CarrierID) -> Bool { super.isHeld(id) || self.line?.socket == id }

    func closeSocket() {
        guard let line = self.line, let id = line.socket else { return }
        self.world.log("\(self.name): closes socket \(id.rawValue)")
        line.socket = nil
        self.tunnel.carrierClosed(id, at: self.now)
        guard self.isRunning else { return }
        let step = Self.backoff[min(self.socketsOpened, Self.backoff.count - 1)]
        self.socketsOpened += 1
        self.openSocketAt = self.world.now + step
    }

    override func takeDatagrams() throws(SimulationFailure) {
        while let line = self.line, let id = line.socket, let datagram = line.down.read(at: self.world.now) {
            try self.world.attacker?.precede(datagram.bytes, at: self, onSocket: id)
            guard line.socket == id else { return }
            let verdict = self.take(datagram.bytes, from: id)
            if case .dropped(let reason) = verdict {
                self.world.log("\(self.name): drops a datagram of type \(datagram.bytes.messageType): \(reason.label)")
            }
            try self.deliverEvents()
        }
    }

    override func sendDatagrams() throws(SimulationFailure) {
        while let line = self.line, let id = line.socket {
            self.output.clear()
            guard self.writeNext(into: &self.output, for: id) else { return }
            let message = ByteBuffer(bytes: self.output.readableBytesView)
            try self.world.sealed(datagram: message, by: self)
            if let greatest = line.refusesAbove, message.readableBytes > greatest {
                self.tunnel.messageTooLong(message.readableBytes, on: id, at: self.now)
            } else {
                line.send(message, at: self.world.now)
            }
        }
    }

    // MARK: The program

    override var nextWake: Int64? {
        var next = self.traffic?.nextWake
        guard self.isRunning, self.dialsByItself else { return next }
        if let dialAt = self.dialAt, self.hasStreams { next = min(next ?? dialAt, dialAt) }
        if let openSocketAt = self.openSocketAt, self.line != nil { next = min(next ?? openSocketAt, openSocketAt) }
        return next
    }

    override func wake() throws(SimulationFailure) {
        if self.isRunning, self.dialsByItself {
            if let dialAt = self.dialAt, self.hasStreams, dialAt <= self.world.now {
                self.dialAt = nil
                if self.attachments.isEmpty { self.world.dial(self) }
            }
            if let openSocketAt = self.openSocketAt, let line = self.line, openSocketAt <= self.world.now {
                self.openSocketAt = nil
                let id = self.world.openSocket(of: line)
                line.socket = id
                self.tunnel.carrierOpened(id, .datagrams, at: self.now)
            }
        }
        try self.withConnection { connection throws(SimulationFailure) in try self.traffic?.wake(&connection) }
    }

    /// Ends the intercept at the user's wish.
    public func finish() {
        self.isRunning = false
        self.tunnel.close(.done, at: self.now)
        guard !self.tunnel.isClosing else { return }
        for attachment in self.attachments { self.close(attachment) }
        self.closeSocket()
    }

    // MARK: Bounds

    override var digest: Int {
        var hasher = Hasher()
        self.tunnel.hash(into: &hasher)
        return hasher.finalize()
    }

    override var connectionDigest: Int {
        var hasher = Hasher()
        _ = self.tunnel.withConnection { $0.hash(into: &hasher) }
        return hasher.finalize()
    }

    override func checkBounds() throws(SimulationFailure) {
        let tunnel = self.configuration.tunnel
        try self.world.check(self.tunnel.sessionCount <= 4, "\(self.name) holds \(self.tunnel.sessionCount) sessions")
        try self.world.check(self.tunnel.handshakeCount <= 4, "\(self.name) waits for too many responses")
        // A session has two keys; a waiting handshake has its ephemeral key, its chaining key and a few more.
        try self.world.check(self.tunnel.secretArena.liveSecrets <= 4 * 2 + 4 * 10, "\(self.name) holds many secrets")
        try self.withConnection { connection throws(SimulationFailure) in
            try self.world.checkBounds(of: connection.inspection, tunnel, at: self)
        }
    }
}
