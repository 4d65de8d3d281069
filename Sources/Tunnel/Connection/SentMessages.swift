import NIOCore

/// A piece of a stream that a message carried.
struct StreamChunk {
    var stream: StreamID
    var range: Range<UInt64>
    var fin: Bool
}

/// Frames that are not stored with a message: when they are lost, they are written anew from the current state.
struct ControlFrames: OptionSet {
    let rawValue: UInt8
    static let maxData = ControlFrames(rawValue: 1)
    static let maxStreams = ControlFrames(rawValue: 2)
}

/// The same for the frames of one stream.
struct StreamControlFrames: OptionSet {
    let rawValue: UInt8
    static let maxStreamData = StreamControlFrames(rawValue: 1)
    static let resetStream = StreamControlFrames(rawValue: 2)
    static let stopSending = StreamControlFrames(rawValue: 4)
}

/// What some messages carry besides one chunk of one stream.
enum SentFrame {
    case chunk(StreamChunk)
    case control(StreamID, StreamControlFrames)
    /// A DATAGRAM whose acknowledgement must be reported.
    case datagram(DatagramID)
}

/// An ack-eliciting message that was sent and is neither acknowledged nor lost.
///
/// It holds no references, since messages are copied often.
struct SentMessage {
    var number: UInt64
    var time: Instant
    var carrier: CarrierID
    /// Most messages carry one chunk of one stream: it has a field of its own, so that such a message allocates nothing.
    var chunk: StreamChunk?
    /// The message carries more than this chunk and `control`: `SentMessages` keeps the rest.
    var hasMore = false
    var control: ControlFrames = []
    /// The largest number that the message's ACK frame named.
    var acknowledges: UInt64?
    /// On datagrams: the message's bytes, which count as in flight, and the delivery rate's state when it was sent.
    var size = 0
    var stamp = DeliveryStamp()
    /// An MTU probe: its loss only says that its size didn't get through (RFC 8899 §3).
    var isSizeProbe = false

    enum Fate: UInt8 {
        case unknown
        case acknowledged
        case lost
    }
}

/// The ack-eliciting messages in flight, by rising number, and the numbers that were skipped.
///
/// A deque, since messages are settled nearly in order: numbers are found by binary search, and settled messages leave at the
/// front.
struct SentMessages: ~Copyable {
    /// The fields that every search reads, apart from the rest, so that a search touches little memory.
    private struct Key {
        var number: UInt64
        var time: Instant
        var carrier: CarrierID
        var fate = SentMessage.Fate.unknown
    }

    /// Both hold the same messages at the same indices.
    private var keys = CircularBuffer<Key>()
    private var messages = CircularBuffer<SentMessage>()
    /// Further frames of some messages, by number, until they are taken; and those of the message that is being written.
    private var more: [UInt64: [SentFrame]] = [:]
    private var collected: [SentFrame] = []
    private var skipped = CircularBuffer<UInt64>()
    private(set) var unsettled = 0

    var isEmpty: Bool { self.unsettled == 0 }
    var isFull: Bool { self.keys.count >= Constants.unacknowledgedMessages }
    /// Settled messages have left the front, so the first is the oldest in flight.
    var oldestTime: Instant? { self.keys.first?.time }

    /// For tests: the bytes in flight on this carrier.
    func bytesInFlight(on carrier: CarrierID?) -> Int {
        var sum = 0
        for at in 0..<self.keys.count where self.keys[offset: at].fate == .unknown {
            if self.keys[offset: at].carrier == carrier { sum += self.messages[offset: at].size }
        }
        return sum
    }

    /// Records a frame of the message that is being written, until the message is appended.
    mutating func collect(_ frame: SentFrame, for message: inout SentMessage) {
        message.hasMore = true
        self.collected.append(frame)
    }

    /// The further frames of a message that a probe repeats. They are kept, since the message is not settled.
    func more(of message: SentMessage) -> [SentFrame] { message.hasMore ? self.more[message.number] ?? [] : [] }

    /// The further frames of a settled message, which are kept no longer.
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

    /// Settles, as acknowledged, the messages in the range that are still in flight, newest first.
    mutating func settle(_ range: ClosedRange<UInt64>, _ body: (SentMessage) -> Void) {
        var at = self.position(range.upperBound + 1) - 1
        while at >= 0, self.keys[offset: at].number >= range.lowerBound {
            self.settle(at: at, as: .acknowledged, body)
            at -= 1
        }
        self.dropSettled()
    }

    /// The oldest messages in flight, at most `count`: what a probe repeats (RFC 9002 §6.2.4).
    func oldest(_ count: Int) -> [SentMessage] {
        var oldest: [SentMessage] = []
        for at in 0..<self.keys.count where oldest.count < count && self.keys[offset: at].fate == .unknown {
            oldest.append(self.messages[offset: at])
        }
        return oldest
    }

    /// RFC 9002 §6.1: messages that are `packetThreshold` numbers below an acknowledged one, or were sent at `limit` or
    /// earlier, are lost. Returns when the oldest of the remaining ones was sent.
    ///
    /// - Parameters:
    ///   - body: gets each lost message, by rising number.
    ///   - afterAcknowledged: called, in the same order, for each acknowledged one that is remembered: a row of losses ends there.
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

    /// On a byte stream, messages arrive in order: those sent before an acknowledged one, and not acknowledged with it, are
    /// lost.
    mutating func settleEarlier(than number: UInt64, on carrier: CarrierID, _ body: (SentMessage) -> Void) {
        var at = 0
        while at < self.keys.count, self.keys[offset: at].number < number {
            if self.keys[offset: at].carrier == carrier { self.settle(at: at, as: .lost, body) }
            at += 1
        }
        self.dropSettled()
    }

    /// Settles as lost all messages in flight on the carriers that the closure names.
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
        // The entry stays in the deque until those before it are settled too.
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
