import NIOCore

@testable import Tunnel

/// Senders that share a bottleneck, with simulated time: what a congestion controller does, exactly and in milliseconds.
///
/// Each has a controller, a pacer and RFC 9002's loss detection; its receiver acknowledges every second message. What is
/// lost is not sent again: goodput is what arrives.
struct FlowSimulation {
    struct Link {
        /// Bits a second.
        var rate = 300e6
        /// Seconds there and back, without a queue.
        var roundTrip = 0.04
        /// Bytes; what finds no room is dropped.
        var queue = 1_500_000
        /// A share, each way.
        var loss = 0.0
        /// Seconds at most, each way; messages keep their order.
        var jitter = 0.0
        /// ACKs leave the receiver's side in lumps, so far apart; 0: each at once.
        var ackInterval = 0.0
        /// The rate from this time on.
        var change: (at: Double, rate: Double)?
    }

    struct Flow {
        var algorithm: CongestionAlgorithm
        var startsAt = 0.0
        /// It has something to send until then, and again from the other time on.
        var idle: ClosedRange<Double>?
        /// Bytes in flight for which its peer gives credit, whatever the controller allows.
        var credit = Int.max
    }

    struct Outcome {
        /// Bytes that arrived, for each tenth of a second.
        var arrived: [Int] = []
        /// Seconds that each message waited in the queue, by when it came.
        var waits: [(at: Double, seconds: Double)] = []
        var lost = 0
        var sent = 0

        /// Bits a second in an interval.
        func goodput(_ interval: Range<Double>) -> Double {
            let bins = self.arrived.indices.filter { interval.contains(Double($0) / 10) }
            return Double(bins.reduce(0) { $0 + self.arrived[$1] }) * 8 / (interval.upperBound - interval.lowerBound)
        }

        func queueDelay(_ share: Double, from: Double = 2, to: Double = .infinity) -> Double {
            let sorted = self.waits.filter { $0.at >= from && $0.at < to }.map(\.seconds).sorted()
            return sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))]
        }
    }

    private struct Sent {
        var number: Int
        var at: Double
        var stamp: DeliveryStamp
        var isSettled = false
    }

    private final class Sender {
        let flow: Flow
        var congestion: Congestion
        var pacer: Pacer
        var sampler = DeliveryRateSampler()
        var rtt = RoundTripTime()
        /// In the order of their numbers; those at the front are settled and let go now and then.
        var messages: [Sent] = []
        var head = 0
        var bytesInFlight = 0
        var next = 0
        var largestAcked = -1
        var lossAt: Double?
        var lastSentAt = 0.0
        var timeouts = 0
        var wakeAt: Double
        var probes = 0
        // At the receiver.
        var unacked: [Int] = []
        var ackDueAt: Double?
        var ackHeldUntil: Double?
        var heldAcks: [Int] = []
        var outcome = Outcome()

        var hasUnsettled: Bool { self.head < self.messages.count }

        /// The place of a number that is still remembered.
        func place(_ number: Int) -> Int? {
            guard let first = self.messages.first, number >= first.number else { return nil }
            let place = number - first.number
            return place < self.messages.count ? place : nil
        }

        func settle(_ place: Int) {
            self.messages[place].isSettled = true
            self.bytesInFlight -= FlowSimulation.size
        }

        func dropSettled() {
            while self.head < self.messages.count, self.messages[self.head].isSettled { self.head += 1 }
            guard self.head > 4_096 else { return }
            self.messages.removeFirst(self.head)
            self.head = 0
        }

        init(_ flow: Flow, seed: UInt64) {
            self.flow = flow
            self.congestion = Congestion(flow.algorithm, messageSize: FlowSimulation.size, random: seed)
            self.pacer = Pacer(messageSize: FlowSimulation.size)
            self.wakeAt = flow.startsAt
        }
    }

    private enum Event {
        case wake(Int)
        case arrive(Int, number: Int)
        case ack(Int, [Int])
        case ackTimer(Int)
    }

    static let size = 1_200
    private var link: Link
    private var senders: [Sender]
    private var random: UInt64
    private var queue = Heap()
    private var freeAt = 0.0
    private var lastArrival: [Double]
    private var lastAck: [Double]

    init(_ link: Link, _ flows: [Flow], seed: UInt64 = 1) {
        self.link = link
        self.random = seed &* 0x9e37_79b9_7f4a_7c15 | 1
        self.senders = flows.enumerated().map { Sender($1, seed: seed &+ UInt64($0) &* 77) }
        self.lastArrival = flows.map { _ in 0 }
        self.lastAck = flows.map { _ in 0 }
    }

    private mutating func chance() -> Double {
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return Double(self.random >> 11) / Double(1 << 53)
    }

    private func instant(_ seconds: Double) -> Instant { Instant(nanoseconds: Int64(seconds * 1e9)) }

    mutating func run(seconds: Double) -> [Outcome] {
        for index in self.senders.indices { self.queue.push(self.senders[index].wakeAt, .wake(index)) }
        while let (now, event) = self.queue.pop(), now < seconds {
            switch event {
            case .wake(let index):
                guard self.senders[index].wakeAt <= now else { continue }
                self.wake(index, now)
            case .arrive(let index, let number): self.arrive(index, number, now)
            case .ackTimer(let index):
                guard let due = self.senders[index].ackDueAt, due <= now else { continue }
                self.acknowledge(index, now)
            case .ack(let index, let numbers): self.acknowledged(index, numbers, now)
            }
        }
        return self.senders.map(\.outcome)
    }

    // MARK: Sending

    private mutating func wake(_ index: Int, _ now: Double) {
        let sender = self.senders[index]
        if let lossAt = sender.lossAt, lossAt <= now { self.detectLoss(index, now) }
        if sender.lossAt == nil, sender.hasUnsettled {
            let timeout = Double(sender.rtt.probeTimeout.nanoseconds) / 1e9 * Double(1 << min(sender.timeouts, 6))
            if now >= sender.lastSentAt + timeout {
                sender.timeouts += 1
                sender.probes = 2
            }
        }
        self.send(index, now)
        self.schedule(index, now)
    }

    private mutating func send(_ index: Int, _ now: Double) {
        let sender = self.senders[index]
        if let idle = sender.flow.idle, idle.contains(now), sender.probes == 0 {
            sender.wakeAt = .infinity
            sender.sampler.noteAppLimited(inFlight: sender.bytesInFlight)
            return
        }
        sender.wakeAt = .infinity
        while sender.probes > 0 || sender.bytesInFlight + Self.size <= sender.congestion.window {
            let isProbe = sender.probes > 0
            if sender.bytesInFlight + Self.size > sender.flow.credit {
                sender.sampler.noteAppLimited(inFlight: sender.bytesInFlight)
                break
            }
            if !isProbe, let at = sender.pacer.nextSendTime(for: Self.size, at: self.instant(now)) {
                sender.wakeAt = Double(at.nanoseconds) / 1e9
                break
            }
            if isProbe { sender.probes -= 1 }
            let stamp = sender.sampler.stamp(
                sending: Self.size,
                inFlightBefore: sender.bytesInFlight,
                at: self.instant(now)
            )
            sender.messages.append(Sent(number: sender.next, at: now, stamp: stamp))
            sender.bytesInFlight += Self.size
            sender.pacer.sent(Self.size, at: self.instant(now))
            sender.lastSentAt = now
            sender.outcome.sent += 1
            self.transmit(index, sender.next, now)
            sender.next += 1
        }
    }

    private mutating func transmit(_ index: Int, _ number: Int, _ now: Double) {
        let rate = self.link.change.map { now >= $0.at ? $0.rate : self.link.rate } ?? self.link.rate
        let wait = max(0, self.freeAt - now)
        guard wait * rate / 8 + Double(Self.size) <= Double(self.link.queue) + 2 * Double(Self.size) else { return }
        self.freeAt = max(self.freeAt, now) + Double(Self.size) * 8 / rate
        self.senders[index].outcome.waits.append((now, wait))
        guard self.chance() >= self.link.loss else { return }
        let jitter = self.link.jitter > 0 ? self.chance() * self.link.jitter : 0
        let at = max(self.lastArrival[index], self.freeAt + self.link.roundTrip / 2 + jitter)
        self.lastArrival[index] = at
        self.queue.push(at, .arrive(index, number: number))
    }

    private mutating func schedule(_ index: Int, _ now: Double) {
        let sender = self.senders[index]
        var at = sender.wakeAt
        if let lossAt = sender.lossAt {
            at = min(at, lossAt)
        } else if sender.hasUnsettled {
            let timeout = Double(sender.rtt.probeTimeout.nanoseconds) / 1e9 * Double(1 << min(sender.timeouts, 6))
            at = min(at, sender.lastSentAt + timeout)
        }
        if let idle = sender.flow.idle, idle.contains(now) { at = min(at, idle.upperBound + 1e-6) }
        guard at < .infinity else { return }
        sender.wakeAt = max(at, now + 1e-7)
        self.queue.push(sender.wakeAt, .wake(index))
    }

    // MARK: Receiving

    private mutating func arrive(_ index: Int, _ number: Int, _ now: Double) {
        let sender = self.senders[index]
        let bin = Int(now * 10)
        while sender.outcome.arrived.count <= bin { sender.outcome.arrived.append(0) }
        sender.outcome.arrived[bin] += Self.size
        let isInOrder = (sender.unacked.last.map { number == $0 + 1 } ?? true)
        sender.unacked.append(number)
        if sender.unacked.count >= 2 || !isInOrder {
            self.acknowledge(index, now)
        } else {
            sender.ackDueAt = now + 0.025
            self.queue.push(now + 0.025, .ackTimer(index))
        }
    }

    private mutating func acknowledge(_ index: Int, _ now: Double) {
        let sender = self.senders[index]
        sender.ackDueAt = nil
        sender.heldAcks += sender.unacked
        sender.unacked.removeAll()
        var leaves = now
        if self.link.ackInterval > 0 {
            leaves = ((now / self.link.ackInterval).rounded(.down) + 1) * self.link.ackInterval
        }
        // An ACK names all that came of late: a lost one costs nothing but time.
        let numbers = Array(sender.heldAcks.suffix(64))
        sender.heldAcks = numbers
        guard self.chance() >= self.link.loss else { return }
        let jitter = self.link.jitter > 0 ? self.chance() * self.link.jitter : 0
        let at = max(self.lastAck[index], leaves + self.link.roundTrip / 2 + jitter)
        self.lastAck[index] = at
        self.queue.push(at, .ack(index, numbers))
    }

    private mutating func acknowledged(_ index: Int, _ numbers: [Int], _ now: Double) {
        let sender = self.senders[index]
        let before = sender.bytesInFlight
        var bytes = 0
        var newest: Sent?
        for number in numbers {
            guard let place = sender.place(number), !sender.messages[place].isSettled else { continue }
            let one = sender.messages[place]
            sender.settle(place)
            bytes += Self.size
            sender.sampler.acknowledged(
                bytes: Self.size,
                sentAt: self.instant(one.at),
                stamp: one.stamp,
                at: self.instant(now)
            )
            if newest.map({ one.number > $0.number }) ?? true { newest = one }
        }
        guard let newest else { return }
        sender.dropSettled()
        sender.timeouts = 0
        if newest.number > sender.largestAcked {
            sender.largestAcked = newest.number
            sender.rtt.sample(.nanoseconds(Int64((now - newest.at) * 1e9)), ackDelay: .zero)
        }
        let lost = self.detectLoss(index, now)
        let rate = sender.sampler.sample(at: self.instant(now))
        sender.congestion.didAcknowledge(
            AckNews(
                now: self.instant(now),
                bytes: bytes,
                largestSentAt: self.instant(newest.at),
                latest: sender.rtt.latest ?? sender.rtt.smoothed,
                smoothed: sender.rtt.smoothed,
                minimum: sender.rtt.minimum,
                inFlightBefore: before,
                inFlight: sender.bytesInFlight,
                lostBytes: lost,
                rate: rate
            )
        )
        let smoothed = max(1e-6, Double(sender.rtt.smoothed.nanoseconds) / 1e9)
        sender.pacer.update(
            rate: sender.congestion.pacingRate ?? 1.25 * Double(sender.congestion.window) / smoothed,
            messageSize: Self.size,
            at: self.instant(now)
        )
        self.send(index, now)
        self.schedule(index, now)
    }

    @discardableResult
    private mutating func detectLoss(_ index: Int, _ now: Double) -> Int {
        let sender = self.senders[index]
        sender.lossAt = nil
        let slower = max(sender.rtt.latest ?? sender.rtt.smoothed, sender.rtt.smoothed)
        let delay = max(0.001, Double(slower.nanoseconds) / 1e9 * 9 / 8)
        var lost = 0
        var last = 0.0
        var place = sender.head
        while place < sender.messages.count, sender.messages[place].number < sender.largestAcked {
            let one = sender.messages[place]
            if !one.isSettled {
                if one.at <= now - delay || sender.largestAcked >= one.number + 3 {
                    sender.settle(place)
                    lost += Self.size
                    last = one.at
                } else {
                    sender.lossAt = min(sender.lossAt ?? .infinity, one.at + delay)
                }
            }
            place += 1
        }
        guard lost > 0 else { return 0 }
        sender.dropSettled()
        sender.outcome.lost += lost / Self.size
        sender.congestion.didLose(
            bytes: lost,
            largestLostSentAt: self.instant(last),
            isPersistent: false,
            inFlight: sender.bytesInFlight,
            at: self.instant(now)
        )
        return lost
    }

    /// A binary heap of events, first in time and then in order of coming.
    private struct Heap {
        private var items: [(at: Double, order: Int, event: Event)] = []
        private var count = 0

        mutating func push(_ at: Double, _ event: Event) {
            self.count += 1
            self.items.append((at, self.count, event))
            var child = self.items.count - 1
            while child > 0, self.isBefore(child, (child - 1) / 2) {
                self.items.swapAt(child, (child - 1) / 2)
                child = (child - 1) / 2
            }
        }

        mutating func pop() -> (Double, Event)? {
            guard let first = self.items.first else { return nil }
            self.items.swapAt(0, self.items.count - 1)
            self.items.removeLast()
            var parent = 0
            while true {
                var least = parent
                for child in [2 * parent + 1, 2 * parent + 2]
                where child < self.items.count && self.isBefore(child, least) {
                    least = child
                }
                if least == parent { return (first.at, first.event) }
                self.items.swapAt(parent, least)
                parent = least
            }
        }

        private func isBefore(_ one: Int, _ other: Int) -> Bool {
            (self.items[one].at, self.items[one].order) < (self.items[other].at, self.items[other].order)
        }
    }
}
