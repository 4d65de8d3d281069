public import NIOCore

/// A table of flows, each stage ordered by last use, so that the flow idle for longest is found at once and evicted first.
///
/// ```
///   asked ── an answer ─▶ answered ── a second exchange ─▶ session
/// ```
///
/// Senders with spoofed addresses create flows that are never answered. To protect the others, an unanswered flow is
/// evicted first if it has waited for `answerTime`, or if unanswered flows are half of all; a client that has just sent is
/// given time. Next come flows with one exchange, as a resolver makes with each query. They push out no session while
/// sessions are at most half of all flows.
///
/// Each stage is a linked list through the slots of an array: a use moves a flow to the end of its list, without any search.
public struct FlowTable<Key: Hashable, Flow> {
    private enum Stage: Int, CaseIterable {
        case asked
        case answered
        case session
    }

    private struct Slot {
        var key: Key
        var flow: Flow
        let begunAt: NIODeadline
        var usedAt: NIODeadline
        var stage = Stage.asked
        /// The client has sent again since the first answer.
        var hasAskedAgain = false
        /// The neighbours in the stage's list: used before and after this one.
        var older: Int?
        var newer: Int?

        /// Advances the stage with a payload. A second exchange is an answer to a payload sent after the first answer; or,
        /// as in Linux's conntrack ("assured", nf_conntrack_proto_udp.c), any payload later than 2 s after the first.
        mutating func advance(_ isAnswer: Bool, at now: NIODeadline) {
            switch self.stage {
            case .asked: if isAnswer { self.stage = .answered }
            case .answered:
                if now > self.begunAt + FlowLimits.secondExchangeAfter || (isAnswer && self.hasAskedAgain) {
                    self.stage = .session
                } else if !isAnswer {
                    self.hasAskedAgain = true
                }
            case .session: break
            }
        }
    }

    private var slots: [Slot?] = []
    private var free: [Int] = []
    private var index: [Key: Int] = [:]
    private struct List {
        var oldest: Int?
        var newest: Int?
        var count = 0
    }

    private var lists = [List](repeating: List(), count: Stage.allCases.count)
    private let atMost: Int
    private let times: FlowTimes

    /// - Parameters:
    ///   - atMost: the maximum number of flows, at least 1.
    ///   - times: how long flows live without being used.
    public init(atMost: Int, times: FlowTimes) {
        self.atMost = max(1, atMost)
        self.times = times
    }

    public var count: Int { self.index.count }

    public var flows: [Flow] { self.slots.compactMap { $0?.flow } }

    /// When the first flow expires, unless it is used before.
    public var nextExpiry: NIODeadline? { self.nextToEnd?.at }

    private var nextToEnd: (key: Key, at: NIODeadline)? {
        let ends = Stage.allCases.compactMap { stage -> (key: Key, at: NIODeadline)? in
            self.oldest(stage).map { ($0.key, $0.usedAt + self.idle(stage)) }
        }
        return ends.min { $0.at < $1.at }
    }

    private func idle(_ stage: Stage) -> TimeAmount {
        switch stage {
        case .asked: self.times.unanswered
        case .answered: self.count > self.atMost / 2 ? self.times.crowded : self.times.answered
        case .session: self.times.answered
        }
    }

    private func oldest(_ stage: Stage) -> Slot? { self.lists[stage.rawValue].oldest.flatMap { self.slots[$0] } }

    /// The flow, without counting as a use.
    public func peek(_ key: Key) -> Flow? { self.index[key].flatMap { self.slots[$0]?.flow } }

    /// The flow, now used; nil if there is none.
    ///
    /// - Parameter isAnswer: whether the payload goes to the client.
    public mutating func use(_ key: Key, isAnswer: Bool = false, at now: NIODeadline) -> Flow? {
        guard let at = self.index[key] else { return nil }
        self.unlink(at)
        self.slots[at]?.usedAt = now
        self.slots[at]?.advance(isAnswer, at: now)
        self.link(at)
        return self.slots[at]?.flow
    }

    /// Inserts a flow, replacing one with the same key.
    ///
    /// - Returns: the flow that was replaced or evicted, if any.
    @discardableResult
    public mutating func insert(_ flow: Flow, for key: Key, at now: NIODeadline) -> Flow? {
        var gone = self.remove(key)
        if self.count >= self.atMost, let key = self.leastNeeded(at: now) { gone = self.remove(key) }
        let slot = Slot(key: key, flow: flow, begunAt: now, usedAt: now)
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
        let answered = (self.oldest(.answered) ?? self.oldest(.session))?.key
        guard let unanswered = self.oldest(.asked) else { return answered }
        let isLate = unanswered.usedAt + FlowLimits.answerTime <= now
        let isOneOfMany = self.lists[Stage.asked.rawValue].count >= max(1, self.atMost / 2)
        return isLate || isOneOfMany ? unanswered.key : answered ?? unanswered.key
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

    /// Removes the flows that have been idle for too long.
    public mutating func expire(at now: NIODeadline) -> [Flow] {
        var gone: [Flow] = []
        while let next = self.nextToEnd, next.at <= now {
            if let flow = self.remove(next.key) { gone.append(flow) }
        }
        return gone
    }

    /// Removes all flows.
    public mutating func removeAll() -> [Flow] {
        let all = self.flows
        self = FlowTable(atMost: self.atMost, times: self.times)
        return all
    }

    // MARK: The lists

    private func list(of at: Int) -> Int { (self.slots[at]?.stage ?? .asked).rawValue }

    private mutating func link(_ at: Int) {
        let list = self.list(of: at)
        let newest = self.lists[list].newest
        self.slots[at]?.older = newest
        self.slots[at]?.newer = nil
        if let newest { self.slots[newest]?.newer = at } else { self.lists[list].oldest = at }
        self.lists[list].newest = at
        self.lists[list].count += 1
    }

    private mutating func unlink(_ at: Int) {
        let list = self.list(of: at)
        let (older, newer) = (self.slots[at]?.older, self.slots[at]?.newer)
        if let older { self.slots[older]?.newer = newer } else { self.lists[list].oldest = newer }
        if let newer { self.slots[newer]?.older = older } else { self.lists[list].newest = older }
        self.lists[list].count -= 1
    }
}

/// Limits for UDP flows, at both ends (PROTOCOL, UDP services).
public enum FlowLimits {
    public static let flows = 1_024  // †

    /// Each flow needs a descriptor at either end, and some must stay free for other uses.
    public static func flows(ofDescriptors limit: Int) -> Int { max(16, min(self.flows, limit / 4)) }

    /// New flows a second, after a burst of `flows`: each costs a socket at either end, 0.1 to 0.2 ms of a loop that has
    /// other work.
    public static let newPerSecond = 2_000  // †

    /// After this time, an unanswered flow is evicted first when the table is full.
    public static let answerTime = TimeAmount.seconds(2)  // †

    /// nf_conntrack_proto_udp.c: `stream_ts`.
    static let secondExchangeAfter = TimeAmount.seconds(2)
}

/// Limits new flows: a token bucket that holds `FlowLimits.flows` and gets `FlowLimits.newPerSecond`.
///
/// Payloads beyond it are dropped, as UDP allows. A sender with spoofed addresses or ever new ports can't stop other clients.
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
