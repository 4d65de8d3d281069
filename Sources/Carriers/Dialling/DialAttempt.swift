import NIOCore

/// One round through a sidecar's addresses, until one of them answers.
struct DialAttempt {
    private var rest: ArraySlice<TunnelClient.Address>
    private(set) var failures: [DialFailure] = []

    /// Timeouts to connect, and to get an answer, for an address that isn't the last one. †
    private static let connectTimeout = TimeAmount.seconds(1)
    private static let answerTimeout = TimeAmount.seconds(2)
    /// A command or relay may have to connect to a cluster first.
    private static let relayAnswerTimeout = TimeAmount.seconds(8)
    private static let lastConnectTimeout = TimeAmount.seconds(5)

    init(_ order: [TunnelClient.Address]) { self.rest = order[...] }

    mutating func next() -> TunnelClient.Address? { self.rest.popFirst() }

    mutating func failed(_ failure: DialFailure) { self.failures.append(failure) }

    var connectTimeout: TimeAmount { self.rest.isEmpty ? Self.lastConnectTimeout : Self.connectTimeout }

    /// How long the current address may take to answer, so that the others get their turn; nil: it is the last one.
    func answerTimeout(for address: TunnelClient.Address) -> TimeAmount? {
        guard !self.rest.isEmpty else { return nil }
        return switch address {
        case .command, .relay: Self.relayAnswerTimeout
        case .tcp, .udp: Self.answerTimeout
        }
    }

    /// All that went wrong were connections closed without an answer, which says little: the sidecar may have been busy.
    var saysLittle: Bool { self.failures.allSatisfy { if case .closed = $0 { true } else { false } } }
}
