public import NIOCore

/// Flows by what tells them apart, in the order of their last use: the longest idle one is found at once, and goes first.
///
/// Whoever forges addresses makes flows that nobody answers: those go before all that were answered.
///
/// Two lists through the slots of an array: each use moves one to its list's end, and nothing is searched.
public struct FlowTable<Key: Hashable, Flow> {
    private struct Slot {
        var key: Key
        var flow: Flow
        var usedAt: NIODeadline
        var isAnswered = false
        /// Towards the longest idle one, and towards the one used last.
        var older: Int?
        var newer: Int?
    }

    private var slots: [Slot?] = []
    private var free: [Int] = []
    private var index: [Key: Int] = [:]
    private struct List {
        var oldest: Int?
        var newest: Int?
    }

    private var answered = List()
    private var unanswered = List()
    private let atMost: Int
    private let idle: TimeAmount

    /// - Parameters:
    ///   - atMost: how many are kept; 1 or more.
    ///   - idle: how long one lives without being used.
    public init(atMost: Int, idle: TimeAmount) {
        self.atMost = max(1, atMost)
        self.idle = idle
    }

    public var count: Int { self.index.count }

    public var flows: [Flow] { self.slots.compactMap { $0?.flow } }

    /// When the longest idle one ends, unless it is used.
    public var nextExpiry: NIODeadline? { self.longestIdle.map { $0.usedAt + self.idle } }

    private var longestIdle: Slot? {
        let slots = [self.answered.oldest, self.unanswered.oldest].compactMap { $0.flatMap { self.slots[$0] } }
        return slots.min { $0.usedAt < $1.usedAt }
    }

    /// Without using it.
    public func peek(_ key: Key) -> Flow? { self.index[key].flatMap { self.slots[$0]?.flow } }

    /// The flow, which lives on from now; nil: there is none.
    ///
    /// - Parameter isAnswer: the client is answered, so there is one.
    public mutating func use(_ key: Key, isAnswer: Bool = false, at now: NIODeadline) -> Flow? {
        guard let at = self.index[key] else { return nil }
        self.unlink(at)
        self.slots[at]?.usedAt = now
        if isAnswer { self.slots[at]?.isAnswered = true }
        self.link(at)
        return self.slots[at]?.flow
    }

    /// Puts in one whose key isn't there; one that is, is replaced.
    ///
    /// - Returns: the one that had to go for it, if one had.
    @discardableResult
    public mutating func insert(_ flow: Flow, for key: Key, at now: NIODeadline) -> Flow? {
        var gone = self.remove(key)
        if self.count >= self.atMost, let oldest = self.unanswered.oldest ?? self.answered.oldest,
            let slot = self.slots[oldest]
        {
            gone = self.remove(slot.key)
        }
        let slot = Slot(key: key, flow: flow, usedAt: now)
        let at: Int
        if let reused = self.free.popLast() {
            at = reused
            self.slots[at] = slot
        } else {
            at = self.slots.count
            self.slots.append(slot)
        }
        self.index[key] = at
        self.link(at)
        return gone
    }

    @discardableResult
    public mutating func remove(_ key: Key) -> Flow? {
        guard let at = self.index.removeValue(forKey: key) else { return nil }
        self.unlink(at)
        let flow = self.slots[at]?.flow
        self.slots[at] = nil
        self.free.append(at)
        return flow
    }

    /// Takes out those that have been idle for too long.
    public mutating func expire(at now: NIODeadline) -> [Flow] {
        var gone: [Flow] = []
        while let slot = self.longestIdle, slot.usedAt + self.idle <= now {
            if let flow = self.remove(slot.key) { gone.append(flow) }
        }
        return gone
    }

    /// Takes all out.
    public mutating func removeAll() -> [Flow] {
        let all = self.flows
        self = FlowTable(atMost: self.atMost, idle: self.idle)
        return all
    }

    // MARK: The lists

    private func list(of at: Int) -> WritableKeyPath<Self, List> {
        self.slots[at]?.isAnswered ?? false ? \.answered : \.unanswered
    }

    private mutating func link(_ at: Int) {
        let list = self.list(of: at)
        let newest = self[keyPath: list].newest
        self.slots[at]?.older = newest
        self.slots[at]?.newer = nil
        if let newest { self.slots[newest]?.newer = at } else { self[keyPath: list].oldest = at }
        self[keyPath: list].newest = at
    }

    private mutating func unlink(_ at: Int) {
        let list = self.list(of: at)
        let (older, newer) = (self.slots[at]?.older, self.slots[at]?.newer)
        if let older { self.slots[older]?.newer = newer } else { self[keyPath: list].oldest = newer }
        if let newer { self.slots[newer]?.older = older } else { self[keyPath: list].newest = older }
    }
}

/// How many flows there are at most at either end, and how long they live unused (PROTOCOL, UDP services).
public enum FlowLimits {
    public static let flows = 1_024  // †

    /// Each has a descriptor at either end, and other things need some, too.
    public static func flows(ofDescriptors limit: Int) -> Int { max(16, min(self.flows, limit / 4)) }

    public static let idleAtSidecar = TimeAmount.seconds(60)
    /// Longer, so that a flow that a client may still use isn't unknown.
    public static let idleAtWorkspace = TimeAmount.seconds(120)
}
