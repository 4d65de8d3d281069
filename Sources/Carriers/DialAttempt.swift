import NIOCore

/// One round through a sidecar's addresses, until one of them answers.
struct DialAttempt {
    enum Failure {
        case unreachable
        /// The address accepted the connection and closed it again, as a sidecar does that doesn't accept the key.
        case silent
    }

    private var rest: ArraySlice<TunnelClient.Address>
    private var reasons: [String] = []
    /// All failures so far were `.silent`, which says little.
    private(set) var isSilent = true

    /// Timeouts to connect, and to get an answer, for an address that isn't the last one. †
    static let timeout = TimeAmount.seconds(1)
    static let answerTimeout = TimeAmount.seconds(2)
    /// A command may have to connect to a cluster first.
    static let commandAnswerTimeout = TimeAmount.seconds(8)
    static let lastTimeout = TimeAmount.seconds(5)

    init(_ order: [TunnelClient.Address]) { self.rest = order[...] }

    mutating func next() -> TunnelClient.Address? { self.rest.popFirst() }

    /// No address is left after the current one.
    var isLast: Bool { self.rest.isEmpty }

    mutating func failed(_ kind: Failure, _ reason: String) {
        self.reasons.append(reason)
        if kind != .silent { self.isSilent = false }
    }

    var reason: String { self.reasons.joined(separator: "; ") }
}
