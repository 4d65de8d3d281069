public import Carriers
public import InterceptProtocol
public import NIOCore
public import Tunnel

extension WorkspaceAgent {
    /// How it is now, for whoever shows it.
    public struct Snapshot: Equatable, Sendable {
        /// The generation that the sidecar has acknowledged, on this connection and since the last time without a carrier.
        public var acknowledged: UInt64?
        public var isConnected: Bool
        public var presence: Presence
        /// As the sidecar counts; what it counted on earlier connections is in them, but for `open`.
        public var counts: Counts
        /// Where the carrier leads that is in use, or was last.
        public var address: TunnelClient.Address?
        public var roundTripTime: TimeAmount?
        public var handshakeAge: TimeAmount?
        /// On this connection.
        public var messagesSent: UInt64
        public var messagesLost: UInt64
        /// The greatest message that the path takes, in bytes of UDP payload; nil: the carrier is a byte stream.
        public var pathMTU: Int?
        /// How often the tunnel went on by another way since this agent began.
        public var carrierChanges: UInt64
        /// Why it isn't connected, in a clause, if that is known.
        public var problem: String?
        /// Ports of the service behind which nothing took the last connection.
        public var missingServers: Set<ControlMessage.Port>

        /// New connections reach this workspace.
        public func isInForce(_ generation: UInt64) -> Bool {
            self.acknowledged == generation && self.isConnected && self.presence != .gone
        }
    }

    public struct Counts: Equatable, Sendable {
        public var open: UInt64 = 0
        public var total: UInt64 = 0
        public var passed: UInt64 = 0
        /// From clients to the workspace.
        public var bytesIn: UInt64 = 0
        public var bytesOut: UInt64 = 0

        public init() {}

        /// A sidecar may say the greatest number each time that it is dialled: the sum stays where it can't grow.
        public static func + (one: Counts, other: Counts) -> Counts {
            func add(_ one: UInt64, _ other: UInt64) -> UInt64 {
                let (sum, isTooMuch) = one.addingReportingOverflow(other)
                return isTooMuch ? .max : sum
            }
            var sum = Counts()
            sum.open = add(one.open, other.open)
            sum.total = add(one.total, other.total)
            sum.passed = add(one.passed, other.passed)
            sum.bytesIn = add(one.bytesIn, other.bytesIn)
            sum.bytesOut = add(one.bytesOut, other.bytesOut)
            return sum
        }
    }

    public var snapshot: Snapshot {
        let client = self.client
        let now = client?.withConnection { connection in
            (connection.hasCarrier, connection.measuredRoundTripTime, connection.statistics, connection.pathMTU)
        }
        return Snapshot(
            acknowledged: self.acknowledged,
            isConnected: now?.0 ?? false,
            presence: self.presence,
            counts: self.earlier + self.counts,
            address: client?.address,
            roundTripTime: now?.1,
            handshakeAge: client?.handshakeAge,
            messagesSent: now?.2.messagesSent ?? 0,
            messagesLost: now?.2.messagesLost ?? 0,
            pathMTU: now?.3,
            carrierChanges: client?.carrierChanges ?? 0,
            problem: self.problem,
            missingServers: self.missingServers
        )
    }

    /// The connection is over: its counts don't go with it.
    func keepCounts() {
        self.counts.open = 0
        self.earlier = self.earlier + self.counts
        self.counts = Counts()
    }
}
