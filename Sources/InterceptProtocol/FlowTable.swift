public import NIOCore

/// Flows by what tells them apart, in the order of their last use: the longest idle one is found at once, and goes first.
///
/// A list through the slots of an array: each use moves one to its end, and nothing is searched.
public struct FlowTable<Key: Hashable, Flow> {
    private struct Slot {
        var key: Key
        var flow: Flow
        var usedAt: NIODeadline
        /// Towards the longest idle one, and towards the one used last.
        var older: Int?
        var newer: Int?
    }

    private var slots: [Slot?] = []
    private var free: [Int] = []
    private var index: [Key: Int] = [:]
    private var oldest: Int?
    private var newest: Int?
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
    public var nextExpiry: NIODeadline? { self.oldest.flatMap { self.slots[$0] }.map { $0.usedAt + self.idle } }

    /// Without using it.
    public func peek(_ key: Key) -> Flow? { self.index[key].flatMap { self.slots[$0]?.flow } }

    /// The flow, which lives on from now; nil: there is none.
    public mutating func use(_ key: Key, at now: NIODeadline) -> Flow? {
        guard let at = self.index[key] else { return nil }
        self.unlink(at)
        self.slots[at]?.usedAt = now
        self.link(at)
        return self.slots[at]?.flow
    }

    /// Puts in one whose key isn't there; one that is, is replaced.
    ///
    /// - Returns: the one that had to go for it, if one had.
    @discardableResult
    public mutating func insert(_ flow: Flow, for key: Key, at now: NIODeadline) -> Flow? {
        var gone = self.remove(key)
        if self.count >= self.atMost, let oldest, let slot = self.slots[oldest] { gone = self.remove(slot.key) }
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
        while let oldest, let slot = self.slots[oldest], slot.usedAt + self.idle <= now {
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

    // MARK: The list

    private mutating func link(_ at: Int) {
        self.slots[at]?.older = self.newest
        self.slots[at]?.newer = nil
        if let newest { self.slots[newest]?.newer = at } else { self.oldest = at }
        self.newest = at
    }

    private mutating func unlink(_ at: Int) {
        let (older, newer) = (self.slots[at]?.older, self.slots[at]?.newer)
        if let older { self.slots[older]?.newer = newer } else { self.oldest = newer }
        if let newer { self.slots[newer]?.older = older } else { self.newest = older }
    }
}

/// How many flows there are at most at either end, and how long they live unused (PROTOCOL, UDP services).
public enum FlowLimits {
    public static let flows = 1_024  // †
    public static let idleAtSidecar = TimeAmount.seconds(60)
    /// Longer, so that a flow that a client may still use isn't unknown.
    public static let idleAtWorkspace = TimeAmount.seconds(120)
}
