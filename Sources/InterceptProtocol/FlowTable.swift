public import NIOCore

/// Flows by what tells them apart, in the order of their last use: the longest idle one is found at once, and goes first.
///
/// Whoever forges addresses makes flows that nobody answers. Those go before all that were answered, once they have waited
/// for long, or are half of all: a client that has just asked is waited for.
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
        var count = 0
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
        if self.count >= self.atMost, let key = self.leastNeeded(at: now) { gone = self.remove(key) }
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

    private func leastNeeded(at now: NIODeadline) -> Key? {
        let answered = self.answered.oldest.flatMap { self.slots[$0] }
        guard let unanswered = self.unanswered.oldest.flatMap({ self.slots[$0] }) else { return answered?.key }
        let isLate = unanswered.usedAt + FlowLimits.answerTime <= now
        let isOneOfMany = self.unanswered.count >= max(1, self.atMost / 2)
        return isLate || isOneOfMany ? unanswered.key : answered?.key ?? unanswered.key
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
        self[keyPath: list].count += 1
    }

    private mutating func unlink(_ at: Int) {
        let list = self.list(of: at)
        let (older, newer) = (self.slots[at]?.older, self.slots[at]?.newer)
        if let older { self.slots[older]?.newer = newer } else { self[keyPath: list].oldest = newer }
        if let newer { self.slots[newer]?.older = older } else { self[keyPath: list].newest = older }
        self[keyPath: list].count -= 1
    }
}

/// How many flows there are at most at either end, and how long they live unused (PROTOCOL, UDP services).
public enum FlowLimits {
    public static let flows = 1_024  // †

    /// Each has a descriptor at either end, and other things need some, too.
    public static func flows(ofDescriptors limit: Int) -> Int { max(16, min(self.flows, limit / 4)) }

    /// New ones a second, once as many as are kept have come at once: each costs a socket at either end, 0.1 to 0.2 ms of a
    /// loop that has other things to do.
    public static let newPerSecond = 2_000  // †

    /// After which a new client's flow that nobody has answered goes first when there is no room.
    public static let answerTime = TimeAmount.seconds(2)  // †

    public static let idleAtSidecar = TimeAmount.seconds(60)
    /// Longer, so that a flow that a client may still use isn't unknown.
    public static let idleAtWorkspace = TimeAmount.seconds(120)
}

/// How many new flows may be made now: a bucket that holds `FlowLimits.flows` and fills with `FlowLimits.newPerSecond`.
///
/// What is beyond it is dropped, as UDP allows: who forges addresses, or sends from ever new ports, stops nobody else.
public struct FlowBudget {
    private var tokens = Int64(FlowLimits.flows)
    private var filledAt: NIODeadline?

    public init() {}

    public mutating func allows(at now: NIODeadline) -> Bool {
        let interval = 1_000_000_000 / Int64(FlowLimits.newPerSecond)
        if let filledAt, now > filledAt {
            let new = (now - filledAt).nanoseconds / interval
            self.filledAt = new > FlowLimits.flows ? now : filledAt + .nanoseconds(new * interval)
            self.tokens = min(Int64(FlowLimits.flows), self.tokens + min(new, Int64(FlowLimits.flows)))
        } else if self.filledAt == nil {
            self.filledAt = now
        }
        guard self.tokens > 0 else { return false }
        self.tokens -= 1
        return true
    }
}
