import NIOCore

/// A piece of a stream that a message carried.
struct StreamChunk {
    var stream: StreamID
    var range: Range<UInt64>
    var fin: Bool
}

/// Frames that are made anew from the present state when they are lost, instead of being stored.
struct ControlFrames: OptionSet {
    let rawValue: UInt8
    static let maxData = ControlFrames(rawValue: 1)
    static let maxStreams = ControlFrames(rawValue: 2)
}

/// The same for one stream.
struct StreamControlFrames: OptionSet {
    let rawValue: UInt8
    static let maxStreamData = StreamControlFrames(rawValue: 1)
    static let resetStream = StreamControlFrames(rawValue: 2)
    static let stopSending = StreamControlFrames(rawValue: 4)
}

/// What a few messages carry besides one piece of one stream.
enum SentFrame {
    case chunk(StreamChunk)
    case control(StreamID, StreamControlFrames)
    /// One of whose acknowledgement somebody wants to hear.
    case datagram(DatagramID)
}

/// An ack-eliciting message that was sent, as long as nobody knows what became of it.
///
/// Nothing in it counts references: messages are copied often.
struct SentMessage {
    var number: UInt64
    var time: Instant
    var carrier: CarrierID
    /// Most messages carry one piece of one stream: it has its own place, so that such a message allocates nothing.
    var chunk: StreamChunk?
    /// There is more in it than this piece and `control`: `SentMessages` has it.
    var hasMore = false
    var control: ControlFrames = []
    /// The greatest number that an ACK frame in it named.
    var acknowledges: UInt64?
    /// Of a message in datagrams: its bytes, which count as in flight, and what its delivery will tell of the path.
    var size = 0
    var stamp = DeliveryStamp()
    /// It was sent to learn whether its size gets through: its loss says nothing else (RFC 8899 §3).
    var isSizeProbe = false

    enum Fate: UInt8 {
        case unknown
        case acknowledged
        case lost
    }
}

/// The ack-eliciting messages in flight, in the order of their numbers, and the numbers that were left out.
///
/// A deque, since messages settle nearly in order: numbers are found by a binary search, settled ones leave at the front.
struct SentMessages: ~Copyable {
    /// What is looked at again and again, apart from what is looked at once: walks touch little memory.
    private struct Key {
        var number: UInt64
        var time: Instant
        var carrier: CarrierID
        var fate = SentMessage.Fate.unknown
    }

    /// The two hold the same messages, in the same places.
    private var keys = CircularBuffer<Key>()
    private var messages = CircularBuffer<SentMessage>()
    /// What a few of them carry besides, by their numbers, until it is taken; and of the one that is being written.
    private var more: [UInt64: [SentFrame]] = [:]
    private var collected: [SentFrame] = []
    private var skipped = CircularBuffer<UInt64>()
    private(set) var unsettled = 0

    var isEmpty: Bool { self.unsettled == 0 }
    var isFull: Bool { self.keys.count >= Constants.unacknowledgedMessages }
    /// Settled ones have left at the front, so the first is the oldest whose fate is unknown.
    var oldestTime: Instant? { self.keys.first?.time }

    /// For tests: what counts as in flight there.
    func bytesInFlight(on carrier: CarrierID?) -> Int {
        var sum = 0
        for at in 0..<self.keys.count where self.keys[offset: at].fate == .unknown {
            if self.keys[offset: at].carrier == carrier { sum += self.messages[offset: at].size }
        }
        return sum
    }

    /// Notes what the message that is being written carries, until it is appended.
    mutating func collect(_ frame: SentFrame, for message: inout SentMessage) {
        message.hasMore = true
        self.collected.append(frame)
    }

    /// What a message carries besides, for whoever sends it again though it is not settled.
    func more(of message: SentMessage) -> [SentFrame] { message.hasMore ? self.more[message.number] ?? [] : [] }

    /// The same of one that is settled: it is kept no longer.
    mutating func takeMore(of message: SentMessage) -> [SentFrame] {
        message.hasMore ? self.more.removeValue(forKey: message.number) ?? [] : []
    }

    mutating func forgetMore() {
        self.more.removeAll()
        self.collected.removeAll()
    }

    mutating func append(_ message: SentMessage) {
        if message.hasMore {
            self.more[message.number] = self.collected
            self.collected.removeAll()
        }
        self.keys.append(Key(number: message.number, time: message.time, carrier: message.carrier))
        self.messages.append(message)
        self.unsettled += 1
    }

    mutating func noteSkipped(_ number: UInt64) {
        if self.skipped.count >= Constants.skippedNumbersKept { self.skipped.removeFirst() }
        self.skipped.append(number)
    }

    func wasSkipped(in range: ClosedRange<UInt64>) -> Bool { self.skipped.contains { range.contains($0) } }

    private func position(_ number: UInt64) -> Int {
        var low = 0
        var high = self.keys.count
        while low < high {
            let middle = (low + high) / 2
            if self.keys[offset: middle].number < number { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Settles those in the range that weren't, newest first.
    mutating func settle(_ range: ClosedRange<UInt64>, _ body: (SentMessage) -> Void) {
        var at = self.position(range.upperBound + 1) - 1
        while at >= 0, self.keys[offset: at].number >= range.lowerBound {
            self.settle(at: at, as: .acknowledged, body)
            at -= 1
        }
        self.dropSettled()
    }

    /// The oldest whose fate is unknown, at most so many: what a probe sends again (RFC 9002 §6.2.4).
    func oldest(_ count: Int) -> [SentMessage] {
        var oldest: [SentMessage] = []
        for at in 0..<self.keys.count where oldest.count < count && self.keys[offset: at].fate == .unknown {
            oldest.append(self.messages[offset: at])
        }
        return oldest
    }

    /// RFC 9002 §6.1: those that are so many numbers behind an acknowledged one, or were sent no later than so, are lost.
    /// Returns when the oldest of the others was sent.
    mutating func settleLate(
        on carrier: CarrierID,
        before largest: UInt64,
        sentBy limit: Instant,
        _ body: (SentMessage) -> Void,
        afterAcknowledged: () -> Void
    ) -> Instant? {
        var waiting: Instant?
        var at = 0
        while at < self.keys.count {
            let key = self.keys[offset: at]
            guard key.number < largest else { break }
            if key.fate == .acknowledged {
                afterAcknowledged()
            } else if key.fate == .unknown, key.carrier == carrier {
                if key.time <= limit || largest - key.number >= Constants.packetThreshold {
                    self.settle(at: at, as: .lost, body)
                } else {
                    waiting = min(waiting ?? key.time, key.time)
                }
            }
            at += 1
        }
        self.dropSettled()
        return waiting
    }

    /// On a byte stream what came before an acknowledged message has come before it or never will.
    mutating func settleEarlier(than number: UInt64, on carrier: CarrierID, _ body: (SentMessage) -> Void) {
        var at = 0
        while at < self.keys.count, self.keys[offset: at].number < number {
            if self.keys[offset: at].carrier == carrier { self.settle(at: at, as: .lost, body) }
            at += 1
        }
        self.dropSettled()
    }

    /// A carrier is gone, and with it all that nobody acknowledged on it.
    mutating func settleAll(where isGone: (CarrierID) -> Bool, _ body: (SentMessage) -> Void) {
        for at in 0..<self.keys.count where isGone(self.keys[offset: at].carrier) {
            self.settle(at: at, as: .lost, body)
        }
        self.dropSettled()
    }

    private mutating func settle(at offset: Int, as fate: SentMessage.Fate, _ body: (SentMessage) -> Void) {
        let key = self.keys.index(self.keys.startIndex, offsetBy: offset)
        guard self.keys[key].fate == .unknown else { return }
        self.keys[key].fate = fate
        self.unsettled -= 1
        let index = self.messages.index(self.messages.startIndex, offsetBy: offset)
        // The place stays until those before it are settled too.
        body(self.messages[index])
    }

    private mutating func dropSettled() {
        while let first = self.keys.first, first.fate != .unknown {
            self.keys.removeFirst()
            self.messages.removeFirst()
        }
        if self.keys.isEmpty, self.more.isEmpty { self.more = [:] }
        if self.keys.isEmpty, self.skipped.isEmpty {
            self.keys = CircularBuffer()
            self.messages = CircularBuffer()
        }
    }
}

extension CircularBuffer {
    fileprivate subscript(offset offset: Int) -> Element {
        self[self.index(self.startIndex, offsetBy: offset)]
    }
}
