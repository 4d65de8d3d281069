/// Which list of ports the sidecar was sent last, and which one it has put in force.
///
/// A list is the developer's, with the generation of the agent's configuration, or the agent's own, which leaves out ports that
/// no local server answers. The agent's own are numbered, too.
struct SentLists {
    /// Of the list sent last.
    private(set) var generation: UInt64
    /// The developer's list that is in force: acknowledged on this connection, and since the last carrier was lost.
    private(set) var inForce: UInt64?
    /// The developer's list that was in force last.
    private var lastInForce: UInt64?
    /// The last list was the agent's own, and the sidecar hasn't answered it yet.
    private var awaitsOwn = false

    enum Refusal: Equatable {
        /// The list before stays in force.
        case own
        /// The developer's list before stays in force.
        case later
        case first
    }

    init(_ generation: UInt64) { self.generation = generation }

    /// Whether the agent may send a list of its own: the last one was answered, and is in force.
    var mayAskOwn: Bool { self.inForce != nil && !self.awaitsOwn }

    mutating func askedOwn() {
        self.generation += 1
        self.awaitsOwn = true
    }

    /// The developer asks for another list.
    mutating func changed(to generation: UInt64) {
        self.generation = max(self.generation + 1, generation)
        self.awaitsOwn = false
        self.inForce = nil
    }

    /// The sidecar puts a list in force. False: it is an earlier one, which says nothing about the latest.
    ///
    /// - Parameter wanted: the generation of the developer's list.
    mutating func started(_ generation: UInt64, wanted: UInt64) -> Bool {
        guard generation == self.generation else { return false }
        self.awaitsOwn = false
        self.inForce = wanted
        self.lastInForce = wanted
        return true
    }

    /// Whether what the sidecar says is about an earlier list.
    ///
    /// - Parameter generation: nil: the sidecar doesn't say which.
    func isOutdated(_ generation: UInt64?) -> Bool { generation.map { $0 != self.generation } ?? false }

    /// The list that the sidecar refuses, which isn't outdated.
    mutating func refused(_ generation: UInt64?, wanted: UInt64) -> Refusal {
        guard generation != nil else { return .first }
        if self.awaitsOwn {
            self.awaitsOwn = false
            self.generation += 1
            return .own
        }
        return self.lastInForce.map { $0 != wanted } ?? false ? .later : .first
    }

    /// The sidecar may have lost the list.
    mutating func wereLost() { self.inForce = nil }

    /// The next connection's sidecar knows no lists.
    mutating func beginAnew() {
        self.inForce = nil
        self.awaitsOwn = false
    }
}
