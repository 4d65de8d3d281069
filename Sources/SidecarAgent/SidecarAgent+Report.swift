public import InterceptModel
public import Noise

/// What the agent tells the environment about its holders.
extension SidecarAgent {
    public struct Holder: Equatable, Sendable {
        public var key: PublicKey
        public var workspace: String
        public var kind: HoldingKind
        /// In their order.
        public var ports: [ServicePort]
        public var since: UTCTime
        /// Nil: the key is admitted with a claim, and its workspace hasn't asked for anything yet.
        public var generation: UInt64?
        /// When this agent last heard of the workspace. Nil: it hasn't connected.
        public var lastSeen: UTCTime?
        /// The workspace gets the connections, or their copies, now.
        public var isServed: Bool
        public var open: UInt64 = 0
        public var total: UInt64 = 0
        public var passed: UInt64 = 0
        public var behind: UInt64 = 0
    }

    /// The oldest first, claims included.
    public var holders: [Holder] {
        self.table.entries.map { entry in
            var holder = Holder(
                key: entry.key,
                workspace: entry.label,
                kind: entry.kind,
                ports: entry.reserved.sorted(),
                since: entry.since,
                generation: entry.holding?.generation,
                isServed: entry.isServed
            )
            guard let link = self.links[entry.key] else { return holder }
            let status = link.status
            holder.lastSeen = link.lastSeen
            holder.open = status.open
            holder.total = status.total
            holder.passed = status.passed
            holder.behind = status.behind
            return holder
        }
    }
}
