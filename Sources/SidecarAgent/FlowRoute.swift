import Carriers
import NIOCore

/// Whether one client's payloads go to the workspace or to the original, and which of them can still be given to the original.
///
/// The kinds are those of a `FlowDatagram`: 1 has the flow's header, 0 the payload alone, 2 is a `FlowNotice` with its number.
///
/// ```
///   original ── a workspace wants it ─▶ workspace: kind 1 ── acknowledged ─▶ kind 0
///      ▲  ▲                                │  ▲───────── kind 2, 0 ───────────┘
///      │  └── kind 2, 1 to 4 (for a while) ┘
///      └───── withdrawn, gone, taken over
/// ```
struct FlowRoute {
    enum Way: Equatable {
        case original
        /// With the flow's number in the workspace's connection.
        case workspace(UInt64)
    }

    private(set) var way = Way.original
    /// The workspace has acknowledged the flow's header.
    private(set) var isKnown = false
    private var answeredAt: NIODeadline?
    private var hasAnswered: Bool { self.answeredAt != nil }
    private var refusedUntil: NIODeadline?
    /// Payloads sent to a workspace that hasn't answered yet.
    private var recent = RecentPayloads()

    /// How long the original serves the flow after a refusal; by then the local server may be there. †
    static let retryAfter = TimeAmount.seconds(5)

    /// How long a flow is under way after an answer: a client that sends from the same port later may be another one. †
    private static let underWayFor = TimeAmount.seconds(5)

    /// The workspace has just answered: the original would know nothing of what the client says next.
    func isUnderWay(at now: NIODeadline) -> Bool { self.answeredAt.map { now - $0 < Self.underWayFor } ?? false }

    func mayTryWorkspace(at now: NIODeadline) -> Bool { self.refusedUntil.map { now >= $0 } ?? true }

    /// Starts over under a new number, which the workspace knows nothing of yet.
    mutating func begin(_ number: UInt64) {
        self = FlowRoute()
        self.way = .workspace(number)
    }

    mutating func sent(_ payload: ByteBuffer, at now: NIODeadline) {
        if !self.hasAnswered { self.recent.append(payload, at: now) }
    }

    mutating func headerArrived() { self.isKnown = true }

    /// Kind 2, 0: the workspace doesn't know the flow.
    mutating func headerIsMissing() { self.isKnown = false }

    mutating func answered(at now: NIODeadline) {
        self.answeredAt = now
        self.recent = RecentPayloads()
    }

    /// Kind 2, 1 to 4: the workspace refuses the flow.
    ///
    /// - Returns: the payloads that presumably no server has seen; the original gets them.
    mutating func refused(at now: NIODeadline) -> [ByteBuffer] {
        let payloads = self.recent.payloads(at: now)
        self.leave()
        self.refusedUntil = now + Self.retryAfter
        return payloads
    }

    /// The original gets all payloads from now on. Those already sent to the workspace may have reached a server, and
    /// aren't repeated.
    mutating func leave() { self = FlowRoute() }
}
