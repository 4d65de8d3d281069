import NIOCore

/// Who has had how much of the present turn: from one time that the socket is found empty to the next, and no longer than 5 ms†.
///
/// All peers' datagrams come from one queue. Where one peer's fill it, the others' wait behind them, so what is over that peer's
/// share is dropped as soon as its index is read, which costs a hundredth of opening and answering it. Alone a peer has no bound.
struct DatagramTurn {
    private var number: UInt64 = 1
    private var began: Instant?
    /// Connections that had a datagram in this turn, and in the one before.
    private var links = 0
    private var linksBefore = 0

    /// Messages and frames: about a millisecond's work. †
    static let share = 1_024
    static let time = TimeAmount.milliseconds(5)

    /// What one connection had in the turn that it was last seen in.
    struct Part {
        fileprivate var number: UInt64 = 0
        fileprivate var work = 0
    }

    /// Before a datagram of this connection's is opened: whether its share is used up.
    mutating func isOver(for part: inout Part, at now: Instant) -> Bool {
        if let began = self.began {
            if now < began || now - began >= Self.time { self.end() }
        }
        if self.began == nil { self.began = now }
        if part.number != self.number {
            part = Part(number: self.number)
            self.links += 1
        }
        return part.work >= Self.share && (self.links > 1 || self.linksBefore > 1)
    }

    func spend(_ work: Int, of part: inout Part) { part.work += work }

    /// The socket is empty, or others' turn has come.
    mutating func end() {
        guard self.began != nil else { return }
        self.began = nil
        self.number += 1
        self.linksBefore = self.links
        self.links = 0
    }
}
