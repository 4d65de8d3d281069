public import NIOCore
import Noise
public import Tunnel

/// A simulated network with its ends and its clock. It runs on one thread, and a seed always gives the same course of events.
public final class World {
    public let seed: UInt64
    /// Nanoseconds since the simulation began.
    public private(set) var now: Int64 = 0
    public let random: SeededRandom
    public private(set) var ends: [End] = []
    public private(set) var initiators: [InitiatorEnd] = []
    public private(set) var responder: ResponderEnd?

    /// The quiet time has begun: no more faults or attacks, and what is open must end.
    public var isSettling = false
    /// Prints all events, for debugging.
    public var isTraced = false
    /// Settings of the applications' streams.
    var limits = StreamPlan.Limits()
    var openPause: Int64 = 200_000_000
    /// Draws the properties of the next carrier.
    var shapeCarrier: (World) -> SimulatedCarrier.Shape = { _ in SimulatedCarrier.Shape() }
    var attacker: Attacker?
    /// Until this time no carrier can be established.
    var offlineUntil: Int64 = 0
    /// The datagram paths of the initiators that have one.
    var lines: [DatagramLine] = []
    private(set) var watch: DatagramWatch?
    /// The attacker's datagrams to the responder that don't use a line.
    let strangers: DatagramLane

    let ledger = Ledger()
    private var departed: [End] = []
    private var carriers: [SimulatedCarrier] = []
    private var nextCarrier: UInt64 = 1
    private var actions: [(at: Int64, what: (World) throws(SimulationFailure) -> Void)] = []
    private(set) public var steps = 0
    private var stepsWithoutTime = 0
    /// The counters that were sealed with each key, which is identified by direction and receiver index: the highest, and the
    /// lower ones that were not seen.
    private var counters: [UInt64: (greatest: UInt64, unmet: Set<UInt64>)] = [:]
    public private(set) var bytesSealed = 0
    public private(set) var connectionEnds: [ConnectionEnd] = []

    static let stepsAtMost = 3_000_000

    public init(seed: UInt64) {
        self.seed = seed
        self.random = SeededRandom(seed: seed)
        self.strangers = DatagramLane(DatagramLane.Shape(), random: SeededRandom(seed: ~seed))
    }

    func add(_ end: End) {
        self.ends.append(end)
        if let end = end as? InitiatorEnd { self.initiators.append(end) }
        if let end = end as? ResponderEnd {
            self.responder = end
            self.watch = DatagramWatch(responder: end.staticKey.publicKey)
        }
    }

    /// Removes the strangers before the final checks.
    func removeStrangers() {
        for end in self.ends where end is StrangerEnd {
            for attachment in end.attachments { end.close(attachment) }
        }
        self.departed = self.ends.filter { $0 is StrangerEnd }
        self.ends.removeAll { $0 is StrangerEnd }
    }

    // MARK: Carriers

    @discardableResult
    func dial(_ dialer: End, _ shape: SimulatedCarrier.Shape? = nil) -> SimulatedCarrier? {
        guard let responder else { return nil }
        let carrier = SimulatedCarrier(
            CarrierID(self.nextCarrier),
            shape ?? self.shapeCarrier(self),
            from: dialer,
            to: responder,
            random: self.random.fork(),
            at: self.now
        )
        self.log("\(dialer.name): dials carrier \(self.nextCarrier)")
        self.nextCarrier += 1
        dialer.attachments.append(carrier.dialer)
        responder.attachments.append(carrier.acceptor)
        self.carriers.append(carrier)
        return carrier
    }

    /// The carriers that at least one end still holds.
    var liveCarriers: [SimulatedCarrier] {
        self.carriers.removeAll { carrier in
            !carrier.dialer.end.attachments.contains { $0 === carrier.dialer }
                && !carrier.acceptor.end.attachments.contains { $0 === carrier.acceptor }
        }
        return self.carriers
    }

    // MARK: Datagrams

    func openSocket(of line: DatagramLine) -> CarrierID {
        defer { self.nextCarrier += 1 }
        self.log("\(line.initiator.name): opens socket \(self.nextCarrier)")
        // Datagrams for the old socket are lost.
        line.down.drain()
        line.rebind()
        return CarrierID(self.nextCarrier)
    }

    /// Sends a datagram of the responder's to the line with this address; without one it is lost.
    func deliver(_ datagram: ByteBuffer, to route: DatagramRoute) throws(SimulationFailure) {
        try self.watch?.sent(datagram.readableBytes, to: route.remote, self)
        guard let line = self.lines.first(where: { $0.outside == route.remote && $0.socket != nil }) else { return }
        line.down.send(DatagramLane.Datagram(bytes: datagram, from: route.remote), at: self.now)
    }

    /// Sends a datagram to the responder from an address where no end listens.
    func sayToResponder(_ message: ByteBuffer, from address: PathAddress) {
        self.watch?.isHostile(address)
        self.strangers.send(DatagramLane.Datagram(bytes: message, from: address), at: self.now)
    }

    /// The lanes that lead to this end.
    func lanes(to end: End) -> [DatagramLane] {
        if let line = (end as? InitiatorEnd)?.line { return line.socket == nil ? [] : [line.down] }
        return end is ResponderEnd ? self.lines.map(\.up) + [self.strangers] : []
    }

    // MARK: Time

    func at(_ time: Int64, _ what: @escaping (World) throws(SimulationFailure) -> Void) {
        self.actions.append((max(time, self.now), what))
        self.actions.sort { $0.at < $1.at }
    }

    /// When the next event is due.
    private var nextTime: Int64? {
        var next = self.actions.first?.at
        for end in self.ends {
            if let time = end.nextTime { next = min(next ?? time, time) }
        }
        return next
    }

    /// Advances to the next event, if it is due by `end`.
    func step(noLaterThan end: Int64) throws(SimulationFailure) -> Bool {
        guard let next = self.nextTime, next <= end else {
            self.now = max(self.now, end)
            return false
        }
        if next > self.now {
            self.now = next
            self.stepsWithoutTime = 0
        } else {
            self.stepsWithoutTime += 1
            try self.check(self.stepsWithoutTime < 2_000, "time stands still: \(self.whoHurries)")
        }
        self.steps += 1
        try self.check(self.steps < Self.stepsAtMost, "too many steps")
        while let action = self.actions.first, action.at <= self.now {
            self.actions.removeFirst()
            try action.what(self)
        }
        try self.turn()
        if self.steps % 256 == 0 { _ = self.liveCarriers }
        return true
    }

    /// Runs every end that is awake, whichever of them caused the event.
    private func turn() throws(SimulationFailure) {
        for end in self.ends where end.isAwake { try end.run() }
        try self.checkInvariants()
    }

    public func run(until end: Int64) throws(SimulationFailure) {
        try self.turn()
        while try self.step(noLaterThan: end) {}
    }

    public func run(for time: TimeAmount) throws(SimulationFailure) {
        try self.run(until: self.now + time.nanoseconds)
    }

    /// Runs until the condition holds. Returns whether it does.
    public func run(atMost time: TimeAmount, until isSo: () -> Bool) throws(SimulationFailure) -> Bool {
        let end = self.now + time.nanoseconds
        try self.turn()
        while !isSo() {
            guard try self.step(noLaterThan: end) else { return isSo() }
        }
        return true
    }

    private var whoHurries: String {
        self.ends.map { end in
            "\(end.name) deadline \((end.deadline?.nanoseconds).map { "\($0 - end.clockOffset - self.now)" } ?? "none")"
                + " wake \(end.nextWake.map { "\($0 - self.now)" } ?? "none")"
        }.joined(separator: ", ")
    }

    // MARK: What is watched

    func failure(_ what: String) -> SimulationFailure { SimulationFailure(seed: self.seed, time: self.now, what: what) }

    func check(_ isSo: Bool, _ what: @autoclosure () -> String) throws(SimulationFailure) {
        if !isSo { throw self.failure(what()) }
    }

    func log(_ text: @autoclosure () -> String) {
        if self.isTraced { print("\(Double(self.now) / 1e9) \(text())") }
    }

    /// A connection has ended. Protocol errors can only come from a bug here.
    func ended(_ end: ConnectionEnd, at: End) throws(SimulationFailure) {
        self.connectionEnds.append(end)
        try self.check(
            [.noError, .done, .replaced, .revoked].contains(end.code),
            "\(at.name): the connection ended with \(end.code): \(end.reason)"
        )
    }

    /// Checks a message that is sent on a byte stream.
    func sealed(_ message: ByteBuffer, by end: End, on attachment: Attachment) throws(SimulationFailure) {
        if end.role == .responder {
            try self.check(attachment.hasTaken, "a byte for one who has shown nothing")
        }
        if message.messageType != 4 {
            try self.check(message.readableBytes <= 1_200, "a handshake message of \(message.readableBytes) bytes")
        }
        try self.sealed(message, by: end, on: "carrier \(attachment.id.rawValue)")
    }

    /// Checks a message that is sent in a datagram.
    func sealed(datagram message: ByteBuffer, by end: End) throws(SimulationFailure) {
        let size = message.readableBytes
        switch message.messageType {
        case 1, 2: try self.check(size == 1_200, "a handshake message of \(size) bytes")
        case 3: try self.check(size == 64, "a cookie reply of \(size) bytes")
        default: try self.check(size <= 65_504, "a datagram of \(size) bytes")
        }
        try self.sealed(message, by: end, on: "a path of datagrams")
    }

    private func sealed(
        _ message: ByteBuffer,
        by end: End,
        on way: @autoclosure () -> String
    ) throws(SimulationFailure) {
        let size = message.readableBytes
        self.bytesSealed += size
        self.log("\(end.name): message of type \(message.messageType), \(size) bytes, on \(way())")
        if message.messageType == 4 {
            try self.noteCounter(of: message, by: end)
            let limit = self.ends.map(\.maxMessageSize).max() ?? 0
            try self.check(size <= limit && size % 16 == 0, "a data message of \(size) bytes")
        }
        self.attacker?.saw(message, by: end)
    }

    /// No key may be used twice with the same number. The index identifies the key. Numbers rise, except for messages that
    /// wait on one carrier while another one sends.
    private func noteCounter(of message: ByteBuffer, by end: End) throws(SimulationFailure) {
        let index: UInt32 = message.getInteger(at: message.readerIndex + 4, endianness: .little) ?? 0
        let counter: UInt64 = message.getInteger(at: message.readerIndex + 8, endianness: .little) ?? 0
        let key = UInt64(index) | (end.role == .initiator ? 1 << 32 : 0)
        self.log("number \(counter) under \(key)")
        guard var known = self.counters.removeValue(forKey: key) else {
            self.counters[key] = (counter, counter < 64 ? Set(0..<counter) : [])
            return
        }
        if counter > known.greatest {
            // After a larger gap, the session was left for a while, and other keys were used with the numbers in between.
            if counter - known.greatest <= 64 { known.unmet.formUnion(known.greatest + 1..<counter) }
            known.greatest = counter
        } else {
            try self.check(known.unmet.remove(counter) != nil, "number \(counter) twice under one key")
        }
        self.counters[key] = known
    }
}
