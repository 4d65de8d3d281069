public import NIOCore

/// How long a flow lives without a payload (PROTOCOL, UDP services).
///
/// As Linux's conntrack has it: 30 s while nobody has answered (`nf_conntrack_udp_timeout`), then at least two minutes, which
/// RFC 4787 (REQ-5) asks of NATs. What a server says after that would reach nobody.
public struct FlowTimes: Equatable, Sendable {
    /// While nobody has answered.
    public var unanswered: TimeAmount
    /// Once it was answered.
    public var answered: TimeAmount
    /// With one exchange alone, while more than half of the places are taken: as conntrack has it at all times. Where there
    /// is room, such a flow costs nothing, and a server may still have something to say.
    public var crowded: TimeAmount

    public init(unanswered: TimeAmount, answered: TimeAmount, crowded: TimeAmount) {
        self.unanswered = unanswered
        self.answered = answered
        self.crowded = crowded
    }

    private static let answeredAtLeast = TimeAmount.seconds(120)
    private static let answeredAtMost = TimeAmount.seconds(600)  // †

    /// - Parameter kernel: how long the kernel remembers an answered flow in the sidecar's network namespace
    ///   (`nf_conntrack_udp_timeout_stream`): whoever set it longer has clients that are silent for so long.
    public static func atSidecar(kernel: TimeAmount?) -> FlowTimes {
        let answered = min(max(kernel ?? .zero, Self.answeredAtLeast), Self.answeredAtMost)
        return FlowTimes(unanswered: .seconds(30), answered: answered, crowded: .seconds(30))
    }

    /// Longer than at any sidecar, so that no flow that a client may still use is unknown; and the same however many there
    /// are, since the sidecar may have room.
    public static let atWorkspace = FlowTimes(
        unanswered: .seconds(60),
        answered: Self.answeredAtMost + .seconds(60),
        crowded: Self.answeredAtMost + .seconds(60)
    )
}
