import Carriers
import NIOCore

/// Which way the payloads of one client's flow go, and what of them can still be given to the other way.
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
        /// By its number in the workspace's connection.
        case workspace(UInt64)
    }

    private(set) var way = Way.original
    /// The workspace has its header.
    private(set) var isKnown = false
    private var hasAnswered = false
    private var refusedUntil: NIODeadline?
    /// What went to a workspace that has said nothing yet.
    private var recent = RecentPayloads()

    /// After a refusal: the local server may be there by then. †
    static let retryAfter = TimeAmount.seconds(5)

    func mayTryWorkspace(at now: NIODeadline) -> Bool { self.refusedUntil.map { now >= $0 } ?? true }

    /// Another number, or the first: nothing is known of the flow there.
    mutating func begin(_ number: UInt64) {
        self = FlowRoute()
        self.way = .workspace(number)
    }

    mutating func sent(_ payload: ByteBuffer, at now: NIODeadline) {
        if !self.hasAnswered { self.recent.append(payload, at: now) }
    }

    mutating func headerArrived() { self.isKnown = true }

    /// Kind 2, 0.
    mutating func headerIsMissing() { self.isKnown = false }

    mutating func answered() {
        self.hasAnswered = true
        self.recent = RecentPayloads()
    }

    /// Kind 2, 1 to 4.
    ///
    /// - Returns: what no server has seen, as far as anyone can tell: the original gets it.
    mutating func refused(at now: NIODeadline) -> [ByteBuffer] {
        let payloads = self.recent.payloads(at: now)
        self.leave()
        self.refusedUntil = now + Self.retryAfter
        return payloads
    }

    /// To the original, with what comes from now on: what went to the workspace may have reached a server.
    mutating func leave() { self = FlowRoute() }
}
