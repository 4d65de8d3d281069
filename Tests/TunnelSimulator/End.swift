import NIOCore
import Noise
public import Tunnel

/// One end with its carriers: it does, with simulated bytes and a simulated clock, what a driver does with sockets.
///
/// A subclass adds the tunnel and the application.
public class End {
    public let name: String
    let role: Role
    let maxMessageSize: Int
    unowned let world: World
    let random: SeededRandom

    /// How far this end's clocks are ahead of the world's.
    public var clockOffset: Int64
    public var wallOffset: Int64 = 0
    /// Until this time nothing runs here, as in a laptop that sleeps.
    public var asleepUntil: Int64 = 0
    /// false: the program has ended. It neither dials nor answers.
    public var isRunning = true
    var attachments: [Attachment] = []
    var output = ByteBuffer()

    init(_ name: String, role: Role, maxMessageSize: Int, world: World) {
        self.name = name
        self.role = role
        self.maxMessageSize = maxMessageSize
        self.world = world
        self.random = world.random.fork()
        self.clockOffset = self.random.between(0...1_000_000_000_000)
    }

    public var now: Instant { Instant(nanoseconds: self.world.now + self.clockOffset) }

    public var isAwake: Bool { self.world.now >= self.asleepUntil }

    /// When this end has something to do next, in the world's time.
    var nextTime: Int64? {
        var next: Int64?
        func consider(_ time: Int64?) { if let time { next = min(next ?? time, time) } }
        consider(self.deadline.map { $0.nanoseconds - self.clockOffset })
        consider(self.nextWake)
        for attachment in self.attachments { consider(attachment.nextTime) }
        for lane in self.world.lanes(to: self) { consider(lane.nextArrival) }
        return next.map { max($0, self.asleepUntil) }
    }

    // MARK: What a subclass has

    var deadline: Instant? { nil }
    var nextWake: Int64? { nil }
    func handleDeadline() {}
    func wake() throws(SimulationFailure) {}
    func opened(_ id: CarrierID) {}
    func closed(_ id: CarrierID) {}
    func take(_ message: ByteBuffer, from id: CarrierID) -> MessageVerdict { .dropped(.malformed) }
    func writeNext(into buffer: inout ByteBuffer, for id: CarrierID) -> Bool { false }
    func deliverEvents() throws(SimulationFailure) {}
    func takeDatagrams() throws(SimulationFailure) {}
    /// Sends the datagrams that may go out now.
    func sendDatagrams() throws(SimulationFailure) {}
    /// Whether a carrier with this number still exists.
    func isHeld(_ id: CarrierID) -> Bool { self.attachments.contains { $0.id == id } }
    /// A hash of everything that a message may change.
    var digest: Int { 0 }
    /// A hash of what only a confirmed session may change.
    var connectionDigest: Int { 0 }
    func checkBounds() throws(SimulationFailure) {}

    // MARK: The loop's turn

    /// Does all that is due now.
    func run() throws(SimulationFailure) {
        try self.takeArrivals()
        try self.takeDatagrams()
        if let deadline = self.deadline, deadline <= self.now { self.handleDeadline() }
        try self.wake()
        try self.pump()
    }

    private func takeArrivals() throws(SimulationFailure) {
        for attachment in self.attachments {
            guard self.attachments.contains(where: { $0 === attachment }) else { continue }
            if !attachment.isOpen, attachment.opensAt <= self.world.now { self.open(attachment) }
            guard attachment.isOpen else { continue }
            while let bytes = attachment.input.read(at: self.world.now) {
                try self.receive(bytes, on: attachment)
                guard self.attachments.contains(where: { $0 === attachment }) else { break }
            }
            if let closesAt = attachment.closesAt, closesAt <= self.world.now, attachment.input.nextArrival == nil {
                self.world.log("\(self.name): carrier \(attachment.id.rawValue) is closed")
                self.attachments.removeAll { $0 === attachment }
                attachment.carrier?.closed(by: attachment, at: self.world.now)
                self.closed(attachment.id)
            }
        }
    }

    private func open(_ attachment: Attachment) {
        attachment.isOpen = true
        attachment.openedAt = self.now
        self.opened(attachment.id)
    }

    func receive(_ bytes: ByteBuffer, on attachment: Attachment) throws(SimulationFailure) {
        attachment.framer.append(bytes)
        while true {
            switch attachment.framer.next() {
            case .message(let message):
                try self.world.attacker?.precede(message, at: self, on: attachment)
                guard self.attachments.contains(where: { $0 === attachment }) else { return }
                switch self.take(message, from: attachment.id) {
                case .taken:
                    attachment.hasTaken = true
                    attachment.framer.open()
                case .dropped(let reason):
                    self.world.log("\(self.name): drops a message of type \(message.messageType): \(reason.label)")
                case .waits: break
                }
            case .needsMore: return
            case .violation:
                self.close(attachment)
                return
            }
        }
    }

    /// Closes a carrier from this side.
    func close(_ attachment: Attachment) {
        guard self.attachments.contains(where: { $0 === attachment }) else { return }
        self.world.log("\(self.name): closes carrier \(attachment.id.rawValue)")
        self.attachments.removeAll { $0 === attachment }
        attachment.framer.discard()
        attachment.carrier?.closed(by: attachment, at: self.world.now)
        self.closed(attachment.id)
    }

    func close(_ id: CarrierID) {
        if let attachment = self.attachments.first(where: { $0.id == id }) { self.close(attachment) }
    }

    func pump() throws(SimulationFailure) {
        try self.deliverEvents()
        for attachment in self.attachments where attachment.isOpen {
            while attachment.output.isWritable {
                self.output.clear()
                let batch = self.random.logarithmic(1...128 * 1_024)
                while self.output.readableBytes < batch {
                    let start = self.output.writerIndex + 4
                    guard
                        MessageFramer.frame(
                            into: &self.output,
                            body: { self.writeNext(into: &$0, for: attachment.id) ? () : nil }
                        ) != nil
                    else { break }
                    let length = self.output.writerIndex - start
                    guard let message = self.output.getSlice(at: start, length: length) else { break }
                    try self.world.sealed(message, by: self, on: attachment)
                }
                guard self.output.readableBytes > 0 else { break }
                attachment.output.write(self.output, at: self.world.now)
                attachment.carrier?.noticeBreak(at: self.world.now)
            }
        }
        try self.sendDatagrams()
        try self.deliverEvents()
    }
}
