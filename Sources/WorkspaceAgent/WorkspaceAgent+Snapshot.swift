public import Carriers
public import InterceptModel
import InterceptProtocol
public import NIOCore
public import Tunnel

extension WorkspaceAgent {
    /// The agent's current state, for display.
    public struct Snapshot: Equatable, Sendable {
        /// The generation that the sidecar has acknowledged, on this connection and since the last carrier was lost.
        public var acknowledged: UInt64?
        public var isConnected: Bool
        public var presence: Presence
        /// The sidecar's counts, including those of earlier connections (except `open`).
        public var counts: Counts
        /// The address of the current or last carrier.
        public var address: TunnelClient.Address?
        public var roundTripTime: TimeAmount?
        public var handshakeAge: TimeAmount?
        /// Of this connection.
        public var messagesSent: UInt64
        public var messagesLost: UInt64
        /// The largest message that the path carries, in bytes of UDP payload; nil if the carrier is a byte stream.
        public var pathMTU: Int?
        /// How often the tunnel has moved to another carrier since this agent began.
        public var carrierChanges: UInt64
        /// Why there is no connection, as a clause, if known.
        public var problem: String?
        /// The service's ports whose local server failed at the last attempt.
        public var missingServers: Set<ServicePort>

        /// Whether new connections reach this workspace.
        public func isInForce(_ generation: UInt64) -> Bool {
            self.acknowledged == generation && self.isConnected && self.presence != .gone
        }
    }

    public struct Counts: Equatable, Sendable {
        public var open: UInt64 = 0
        public var total: UInt64 = 0
        public var passed: UInt64 = 0
        /// Of a mirror: copies that were reset, or not begun, because this workspace or the tunnel couldn't keep up.
        public var behind: UInt64 = 0
        /// From clients to the workspace.
        public var bytesIn: UInt64 = 0
        public var bytesOut: UInt64 = 0

        public init() {}

        /// Saturates at the maximum: a sidecar may report any number on each connection.
        public static func + (one: Counts, other: Counts) -> Counts {
            func add(_ one: UInt64, _ other: UInt64) -> UInt64 {
                let (sum, isTooMuch) = one.addingReportingOverflow(other)
                return isTooMuch ? .max : sum
            }
            var sum = Counts()
            sum.open = add(one.open, other.open)
            sum.total = add(one.total, other.total)
            sum.passed = add(one.passed, other.passed)
            sum.behind = add(one.behind, other.behind)
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
            acknowledged: self.lists.inForce,
            isConnected: now?.0 ?? false,
            presence: self.presence,
            counts: self.counters.sum,
            address: client?.address,
            roundTripTime: now?.1,
            handshakeAge: client?.handshakeAge,
            messagesSent: now?.2.messagesSent ?? 0,
            messagesLost: now?.2.messagesLost ?? 0,
            pathMTU: now?.3,
            carrierChanges: client?.carrierChanges ?? 0,
            problem: self.problem,
            missingServers: self.servers.missing
        )
    }

    /// Why there is no connection, as a clause, if known.
    private var problem: String? {
        self.client?.withConnection { $0.hasCarrier } ?? false ? nil : self.trouble.clause
    }

    /// What the sidecar has counted, over all connections.
    struct Counters {
        private var current = Counts()
        /// Of connections that have ended.
        private var earlier = Counts()

        var sum: Counts { self.earlier + self.current }

        mutating func received(_ status: ControlMessage.Status) {
            self.current.open = status.open
            self.current.total = status.total
            self.current.passed = status.passed
            self.current.behind = status.behind
            self.current.bytesIn = status.bytesIn
            self.current.bytesOut = status.bytesOut
        }

        mutating func stopped(total: UInt64, passed: UInt64) {
            self.current.total = total
            self.current.passed = passed
            self.current.open = 0
        }

        mutating func connectionEnded() {
            self.current.open = 0
            self.earlier = self.sum
            self.current = Counts()
        }
    }
}
