import InterceptProtocol
import NIOCore

/// The sidecar's control messages to one workspace, in the order of its requests, even if an answer has to wait for the
/// kernel's rules. Those that nobody asked for wait behind such an answer, too.
struct ControlAnswers {
    /// nil marks an answer that isn't known yet.
    private var said = CircularBuffer<ControlMessage?>()
    private var first = 0

    /// Nothing more is read from the workspace while this many are queued. †
    static let atMost = 64

    var isFull: Bool { self.said.count >= Self.atMost }

    mutating func append(_ message: ControlMessage) { self.said.append(message) }

    /// Reserves the place of an answer that `fill` gives later.
    mutating func reserve() -> Int {
        self.said.append(nil)
        return self.first + self.said.count - 1
    }

    mutating func fill(_ place: Int, _ message: ControlMessage) {
        let offset = place - self.first
        guard offset >= 0, offset < self.said.count else { return }
        self.said[self.said.index(self.said.startIndex, offsetBy: offset)] = message
    }

    /// The next message to send, if it is known.
    mutating func next() -> ControlMessage? {
        guard let message = self.said.first ?? nil else { return nil }
        self.said.removeFirst()
        self.first += 1
        return message
    }
}
