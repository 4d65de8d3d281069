import InterceptProtocol
import NIOCore

/// What is said to a workspace, in the order in which it was asked for, also where an answer has to wait for the kernel's rules.
struct ControlAnswers {
    /// nil: it waits.
    private var said = CircularBuffer<ControlMessage?>()
    private var first = 0

    /// No more is read from a workspace while so much waits. †
    static let atMost = 64

    var isFull: Bool { self.said.count >= Self.atMost }

    mutating func append(_ message: ControlMessage) { self.said.append(message) }

    /// The place of an answer that is given later.
    mutating func reserve() -> Int {
        self.said.append(nil)
        return self.first + self.said.count - 1
    }

    mutating func fill(_ place: Int, _ message: ControlMessage) {
        let offset = place - self.first
        guard offset >= 0, offset < self.said.count else { return }
        self.said[self.said.index(self.said.startIndex, offsetBy: offset)] = message
    }

    /// What goes out now.
    mutating func next() -> ControlMessage? {
        guard let message = self.said.first ?? nil else { return nil }
        self.said.removeFirst()
        self.first += 1
        return message
    }
}
