import NIOCore
import Tunnel

/// A byte stream between two ends, like a TCP connection: each direction may break at another byte, and each end may notice
/// at another time, or never.
final class SimulatedCarrier {
    struct Shape {
        var up = Pipe.Shape()
        var down = Pipe.Shape()
        /// The offsets at which the two directions break.
        var breaksUpAt: Int?
        var breaksDownAt: Int?
        /// The offsets of bytes that are changed on the way.
        var corruptsUpAt: Int?
        var corruptsDownAt: Int?
        /// How long after the break each end learns of it; nil: never, so that only timeouts show it.
        var dialerLearnsAfter: Int64? = 0
        var acceptorLearnsAfter: Int64? = 0
        /// When an end closes the stream, bytes in flight are lost.
        var isAbrupt = false
    }

    let id: CarrierID
    let dialer: Attachment
    let acceptor: Attachment
    private let shape: Shape
    private var isBreaking = false

    init(_ id: CarrierID, _ shape: Shape, from dialer: End, to acceptor: End, random: SeededRandom, at now: Int64) {
        let up = Pipe(shape.up, random: random)
        let down = Pipe(shape.down, random: random)
        up.breaksAt = shape.breaksUpAt
        down.breaksAt = shape.breaksDownAt
        up.corruptsAt = shape.corruptsUpAt
        down.corruptsAt = shape.corruptsDownAt
        self.id = id
        self.shape = shape
        self.dialer = Attachment(id, end: dialer, input: down, output: up)
        self.acceptor = Attachment(id, end: acceptor, input: up, output: down)
        self.dialer.opensAt = now + up.latency + down.latency
        self.acceptor.opensAt = now + up.latency
        self.dialer.carrier = self
        self.acceptor.carrier = self
    }

    /// Breaks both directions now.
    func cut(at now: Int64, losing: Bool) {
        guard !self.isBreaking else { return }
        for pipe in [self.dialer.output, self.acceptor.output] {
            pipe.breaksAt = pipe.carried
            if losing { pipe.drain() }
        }
        self.noticeBreak(at: now)
    }

    /// Cancels faults that have not happened yet.
    func heal() {
        for pipe in [self.dialer.output, self.acceptor.output] {
            pipe.corruptsAt = nil
            if !self.isBreaking { pipe.breaksAt = nil }
        }
    }

    /// From now on nothing arrives, and neither end is told.
    func swallow() {
        guard !self.isBreaking else { return }
        self.isBreaking = true
        for pipe in [self.dialer.output, self.acceptor.output] {
            pipe.breaksAt = pipe.carried
            pipe.drain()
        }
    }

    /// Once a direction has broken, schedules when each end learns of it, if ever.
    func noticeBreak(at now: Int64) {
        guard !self.isBreaking, self.dialer.output.isBroken || self.acceptor.output.isBroken else { return }
        self.isBreaking = true
        if let delay = self.shape.dialerLearnsAfter { self.dialer.close(after: max(now, now + delay)) }
        if let delay = self.shape.acceptorLearnsAfter { self.acceptor.close(after: max(now, now + delay)) }
    }

    /// One end has closed the stream: the other end reads the bytes in flight, and then the end.
    func closed(by attachment: Attachment, at now: Int64) {
        let other = attachment === self.dialer ? self.acceptor : self.dialer
        attachment.input.isUnread = true
        attachment.input.drain()
        if self.isBreaking { return }
        if self.shape.isAbrupt { attachment.output.drain() }
        other.close(after: now + attachment.output.latency)
    }
}

/// One end's side of a carrier.
final class Attachment {
    let id: CarrierID
    unowned let end: End
    let input: Pipe
    let output: Pipe
    var framer: MessageFramer
    weak var carrier: SimulatedCarrier?
    var opensAt: Int64 = 0
    var isOpen = false
    /// When this end is told that the carrier is closed; what arrives until then is read.
    private(set) var closesAt: Int64?
    /// This end has accepted a message on the carrier: until then, a responder must be silent.
    var hasTaken = false
    /// By the end's own clock.
    var openedAt = Instant(nanoseconds: 0)

    init(_ id: CarrierID, end: End, input: Pipe, output: Pipe) {
        self.id = id
        self.end = end
        self.input = input
        self.output = output
        self.framer = MessageFramer(role: end.role, maxMessageSize: end.maxMessageSize)
    }

    func close(after time: Int64) {
        let last = max(time, self.input.lastArrival ?? time)
        self.closesAt = min(self.closesAt ?? last, last)
    }

    var nextTime: Int64? {
        if !self.isOpen { return self.opensAt }
        return self.input.nextArrival ?? self.closesAt
    }
}
