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

/// An ack-eliciting message that was sent, as long as nobody knows what became of it.
struct SentMessage {
    var number: UInt64
    var time: Instant
    var carrier: CarrierID
    /// Most messages carry one piece of one stream: it has its own place, so that such a message allocates nothing.
    var chunk: StreamChunk?
    var moreChunks: [StreamChunk] = []
    var control: ControlFrames = []
    var streamControl: [(stream: StreamID, frames: StreamControlFrames)] = []
    /// The datagrams in it of whose acknowledgement somebody wants to hear.
    var datagrams: [DatagramID] = []
    /// The greatest number that an ACK frame in it named.
    var acknowledges: UInt64?
    var isSettled = false
}

/// The ack-eliciting messages in flight, in the order of their numbers, and the numbers that were left out.
///
/// A deque, since messages settle nearly in order: numbers are found by a binary search, settled ones leave at the front.
struct SentMessages: ~Copyable {
    private var messages = CircularBuffer<SentMessage>()
    private var skipped = CircularBuffer<UInt64>()
    private(set) var unsettled = 0

    var isEmpty: Bool { self.unsettled == 0 }
    var isFull: Bool { self.messages.count >= Constants.unacknowledgedMessages }
    /// Settled ones have left at the front, so the first is the oldest whose fate is unknown.
    var oldestTime: Instant? { self.messages.first?.time }

    mutating func append(_ message: SentMessage) {
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
        var high = self.messages.count
        while low < high {
            let middle = (low + high) / 2
            if self.messages[offset: middle].number < number { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Settles those in the range that weren't, newest first.
    mutating func settle(_ range: ClosedRange<UInt64>, _ body: (SentMessage) -> Void) {
        var at = self.position(range.upperBound + 1) - 1
        while at >= 0, self.messages[offset: at].number >= range.lowerBound {
            self.settle(at: at, body)
            at -= 1
        }
        self.dropSettled()
    }

    /// On a byte stream what came before an acknowledged message has come before it or never will.
    mutating func settleEarlier(than number: UInt64, on carrier: CarrierID, _ body: (SentMessage) -> Void) {
        var at = 0
        while at < self.messages.count, self.messages[offset: at].number < number {
            if self.messages[offset: at].carrier == carrier { self.settle(at: at, body) }
            at += 1
        }
        self.dropSettled()
    }

    /// A carrier is gone, and with it all that nobody acknowledged on it.
    mutating func settleAll(where isGone: (CarrierID) -> Bool, _ body: (SentMessage) -> Void) {
        for at in 0..<self.messages.count where isGone(self.messages[offset: at].carrier) {
            self.settle(at: at, body)
        }
        self.dropSettled()
    }

    private mutating func settle(at offset: Int, _ body: (SentMessage) -> Void) {
        guard !self.messages[offset: offset].isSettled else { return }
        body(self.messages[offset: offset])
        let index = self.messages.index(self.messages.startIndex, offsetBy: offset)
        // What it referred to is let go now; the place stays until those before it are settled too.
        self.messages[index].moreChunks = []
        self.messages[index].streamControl = []
        self.messages[index].datagrams = []
        self.messages[index].isSettled = true
        self.unsettled -= 1
    }

    private mutating func dropSettled() {
        while let first = self.messages.first, first.isSettled { self.messages.removeFirst() }
        if self.messages.isEmpty, self.skipped.isEmpty { self.messages = CircularBuffer() }
    }
}

extension CircularBuffer {
    fileprivate subscript(offset offset: Int) -> Element {
        self[self.index(self.startIndex, offsetBy: offset)]
    }
}
