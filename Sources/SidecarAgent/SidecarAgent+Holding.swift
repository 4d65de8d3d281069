import Diversion
public import InterceptProtocol
import Logging
import NIOCore
public import Noise
import Tunnel

/// Who has the service, and what the kernel is told of it.
extension SidecarAgent {
    /// - Parameter known: ports that this workspace had before. If they aren't diverted now, they come back to it, and connections
    ///   that are open to the original on them aren't ended.
    /// - Returns: why the kernel wouldn't; then all is as it was.
    func hold(
        _ link: WorkspaceLink,
        drainSeconds: Int,
        isFresh: Bool,
        besides known: Set<UInt16>
    ) -> DiversionError? {
        let before = self.holder
        self.holder = link
        let fresh = isFresh && self.unstopped != link.key
        do throws(DiversionError) {
            let added = try self.applyDiversion().subtracting(known)
            self.unstopped = nil
            if fresh, !added.isEmpty { self.drainOriginals(added, in: .seconds(Int64(drainSeconds)), for: link) }
            return nil
        } catch {
            self.holder = before
            return error
        }
    }

    func releaseHolder(_ link: WorkspaceLink, isStopped: Bool) {
        guard self.holder === link else { return }
        self.unstopped = isStopped ? nil : link.key
        self.holder = nil
        self.diversionMayHaveChanged()
    }

    /// Which ports the kernel is to redirect has changed, as something was lost or given back.
    func diversionMayHaveChanged() {
        do throws(DiversionError) {
            try self.applyDiversion()
        } catch {
            // The dead-man set runs out by itself.
            self.changeLog.error("the diversion can't be changed: \(error)")
        }
    }

    /// - Returns: the TCP ports that weren't diverted before.
    @discardableResult
    private func applyDiversion() throws(DiversionError) -> Set<UInt16> {
        guard let redirect = self.redirect else { return [] }
        let ports = self.holder?.divertedPorts ?? DivertedPorts()
        let before = self.diverted
        guard ports != before else { return [] }
        if ports.isEmpty { self.endDrain() }
        try redirect.divert(ports)
        self.diverted = ports
        // What the original gets in between isn't told apart from what it had before.
        self.draining.formIntersection(ports.tcp)
        if self.draining.isEmpty { self.endDrain() }
        return ports.tcp.subtracting(before.tcp)
    }

    /// Connections that were open to the original before get the drain time, and are then ended at both ends: a client with
    /// a connection that it keeps comes to the workspace too.
    private func drainOriginals(_ ports: Set<UInt16>, in delay: TimeAmount, for link: WorkspaceLink) {
        self.originalsDrain?.cancel()
        let log = link.log
        // Also those of an earlier call whose time isn't over: it begins anew for all.
        self.draining.formUnion(ports)
        self.originalsDrain = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            guard let self, let redirect = self.redirect else { return }
            let still = self.draining
            self.endDrain()
            guard !still.isEmpty else { return }
            let ended = redirect.endOriginalConnections(on: still).map { "\($0)" } ?? "as they speak"
            log.info(
                "the drain time is over: connections to the original are ended",
                metadata: ["count": "\(ended)"]
            )
        }
    }

    private func endDrain() {
        self.originalsDrain?.cancel()
        self.originalsDrain = nil
        self.draining = []
    }

    func closeConnection(of key: PublicKey, _ code: ErrorCode) { self.server?.close(key, code) }

    /// Who intercepts, as the environment is told it.
    public struct Intercept: Equatable, Sendable {
        /// Who gets new connections; nil: the original does.
        public var divertingTo: PublicKey?
        /// Whose the service is, also while its workspace can't be reached; nil: nobody's.
        public var holder: Holder?
        /// Of the holder's.
        public var open: UInt64 = 0
        public var total: UInt64 = 0
        public var passed: UInt64 = 0

        public init() {}
    }

    public struct Holder: Equatable, Sendable {
        public var key: PublicKey
        public var workspace: String
        /// RFC 3339, UTC.
        public var since: String
        public var generation: UInt64
        public var ports: [ControlMessage.Port]
    }

    public var intercept: Intercept {
        guard let holder = self.holder else { return Intercept() }
        var intercept = Intercept()
        intercept.divertingTo = holder.isDiverting ? holder.key : nil
        intercept.holder = Holder(
            key: holder.key,
            workspace: holder.name,
            since: holder.since?.rfc3339 ?? "",
            generation: holder.intercept?.generation ?? 0,
            ports: holder.intercept?.ports ?? []
        )
        intercept.open = UInt64(holder.openCount)
        intercept.total = holder.total
        intercept.passed = holder.passed
        return intercept
    }

    /// Once for all that changes in this turn of the loop: of a service that changes hands, the end is told.
    func interceptMayHaveChanged() {
        guard self.onInterceptChange != nil, !self.changeIsScheduled else { return }
        self.changeIsScheduled = true
        self.eventLoop.assumeIsolated().execute {
            self.changeIsScheduled = false
            self.onInterceptChange?()
        }
    }
}
