import NIOCore
import Tunnel

/// A byte stream between two ends, as a TCP connection is: it may break in each direction at another byte, be noticed by
/// each end at another time, or by none at all.
final class SimulatedCarrier {
    struct Shape {
        var up = Pipe.Shape()
        var down = Pipe.Shape()
        /// Byte numbers at which the two directions break.
        var breaksUpAt: Int?
        var breaksDownAt: Int?
        /// Byte numbers of those that arrive changed.
        var corruptsUpAt: Int?
        var corruptsDownAt: Int?
        /// How much later each end is told; nil: never, it has to find out.
        var dialerLearnsAfter: Int64? = 0
        var acceptorLearnsAfter: Int64? = 0
        /// An end's closing throws away what is under way.
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

    /// Breaks now, in both directions.
    func cut(at now: Int64, losing: Bool) {
        guard !self.isBreaking else { return }
        for pipe in [self.dialer.output, self.acceptor.output] {
            pipe.breaksAt = pipe.carried
            if losing { pipe.drain() }
        }
        self.noticeBreak(at: now)
    }

    /// What has not gone wrong yet won't.
    func heal() {
        for pipe in [self.dialer.output, self.acceptor.output] {
            pipe.corruptsAt = nil
            if !self.isBreaking { pipe.breaksAt = nil }
        }
    }

    /// From now on nothing arrives, and nobody is told.
    func swallow() {
        guard !self.isBreaking else { return }
        self.isBreaking = true
        for pipe in [self.dialer.output, self.acceptor.output] {
            pipe.breaksAt = pipe.carried
            pipe.drain()
        }
    }

    /// Once a direction has broken, both ends will hear of it, or not.
    func noticeBreak(at now: Int64) {
        guard !self.isBreaking, self.dialer.output.isBroken || self.acceptor.output.isBroken else { return }
        self.isBreaking = true
        if let delay = self.shape.dialerLearnsAfter { self.dialer.close(after: max(now, now + delay)) }
        if let delay = self.shape.acceptorLearnsAfter { self.acceptor.close(after: max(now, now + delay)) }
    }

    /// One end has closed it: the other reads what is still under way, and then the end.
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
    /// When this end is told that it is over; what arrives until then is read.
    private(set) var closesAt: Int64?
    /// A message of ours was taken here: until then a responder owes silence.
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
