public import NIOCore

/// How long a flow lives without a payload (PROTOCOL, UDP services).
///
/// As in Linux's conntrack: 30 s while unanswered (`nf_conntrack_udp_timeout`), then at least the two minutes that RFC 4787
/// (REQ-5) requires of NATs. A later answer would no longer reach the client.
public struct FlowTimes: Equatable, Sendable {
    /// While the flow is unanswered.
    public var unanswered: TimeAmount
    /// Once the flow was answered.
    public var answered: TimeAmount
    /// For a flow with one exchange only, while the table is more than half full. Conntrack always uses this time; but with
    /// room to spare such a flow costs nothing, and a server may still have something to send.
    public var crowded: TimeAmount

    public init(unanswered: TimeAmount, answered: TimeAmount, crowded: TimeAmount) {
        self.unanswered = unanswered
        self.answered = answered
        self.crowded = crowded
    }

    private static let answeredAtLeast = TimeAmount.seconds(120)
    private static let answeredAtMost = TimeAmount.seconds(600)  // †

    /// - Parameter kernel: how long the kernel remembers an answered flow in the sidecar's network namespace
    ///   (`nf_conntrack_udp_timeout_stream`). A longer setting suggests clients that are silent for that long.
    public static func atSidecar(kernel: TimeAmount?) -> FlowTimes {
        let answered = min(max(kernel ?? .zero, Self.answeredAtLeast), Self.answeredAtMost)
        return FlowTimes(unanswered: .seconds(30), answered: answered, crowded: .seconds(30))
    }

    /// Longer than any sidecar's, so that the workspace knows every flow that a client may still use. `crowded` is the
    /// same, since the sidecar may have room.
    public static let atWorkspace = FlowTimes(
        unanswered: .seconds(60),
        answered: Self.answeredAtMost + .seconds(60),
        crowded: Self.answeredAtMost + .seconds(60)
    )
}
