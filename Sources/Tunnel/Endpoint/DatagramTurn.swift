import NIOCore

/// Counts how much work each connection had in the current turn. A turn lasts from one time that the socket is found empty to
/// the next, but at most 5 ms†.
///
/// All peers' datagrams come from one queue. If one peer's datagrams fill it, the others' wait behind them. So what exceeds a
/// peer's share is dropped as soon as its index is read, which costs a hundredth of opening and answering it. A peer that is
/// alone has no limit.
struct DatagramTurn {
    private var number: UInt64 = 1
    private var began: Instant?
    /// Connections that had a datagram in this turn, and in the previous one.
    private var links = 0
    private var linksBefore = 0

    /// In messages and frames: about a millisecond's work. †
    static let share = 1_024
    static let time = TimeAmount.milliseconds(5)

    /// The work of one connection in the turn in which it last had a datagram.
    struct Part {
        fileprivate var number: UInt64 = 0
        fileprivate var work = 0
    }

    /// Called before a datagram of this connection is opened: whether the connection has used up its share.
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

    /// Ends the turn: the socket is empty, or the time is over.
    mutating func end() {
        guard self.began != nil else { return }
        self.began = nil
        self.number += 1
        self.linksBefore = self.links
        self.links = 0
    }
}
