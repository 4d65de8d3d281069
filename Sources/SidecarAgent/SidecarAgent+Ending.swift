import Diversion
import InterceptModel
public import NIOCore
import Noise

/// How an agent that was told to end does so.
extension SidecarAgent {
    // MARK: Going on

    /// † How often the original's listeners are looked at.
    private static let lookEvery = TimeAmount.milliseconds(200)
    /// † How long before this process is killed new clients are left to the original.
    private static let keptForDrain = TimeAmount.seconds(1)
    /// † How long before that the last connections are reset, so that the workspaces hear of it.
    private static let keptForEnd = TimeAmount.milliseconds(300)

    struct GoingOn {
        /// The keys that held ports, or had claimed them, when the agent was told to end, and where the original listens for the
        /// ports held. Their workspaces may come back.
        var keys: Set<PublicKey>
        /// Nil: that can't be told.
        var ports: Set<ServicePort>?
        /// When this process is killed.
        var killedAt: NIODeadline
    }

    public var isGoingOn: Bool { self.goingOn != nil }

    /// Goes on for the workspaces that hold ports, while the original listens on one of these: what was told to end at the same
    /// time may serve for a while, as in a pod's preStop hook, and its clients are still the workspace's. Nobody else gets a port.
    ///
    /// - Parameters:
    ///   - grace: how long until this process is killed.
    ///   - done: called once, at the latest a second before that.
    public func goOn(within grace: TimeAmount, then done: @escaping () -> Void) {
        guard self.goingOn == nil, !self.isEnding else { return }
        let entries = self.table.entries
        let held = entries.filter { $0.holding != nil }.reduce(into: Set()) { $0.formUnion($1.reserved) }
        let killedAt = NIODeadline.now() + grace
        self.goingOn = GoingOn(
            keys: Set(entries.map(\.key)),
            ports: self.originalPorts(held),
            killedAt: killedAt
        )
        self.log.info(
            "told to end: going on while the original listens",
            metadata: ["ports": "\(Self.brief(held.sorted()))", "grace": "\(grace.nanoseconds / 1_000_000)ms"]
        )
        self.lookAtOriginal(until: killedAt - Self.keptForDrain, then: done)
    }

    /// Nil: an original isn't in this network.
    private func originalPorts(_ held: Set<ServicePort>) -> Set<ServicePort>? {
        let originals = self.configuration.servedPorts.filter { held.contains($0.port) }
        guard originals.allSatisfy({ $0.upstream.host == "127.0.0.1" }) else { return nil }
        return Set(originals.map { ServicePort($0.upstream.port, $0.port.transport) })
    }

    private func lookAtOriginal(until end: NIODeadline, then done: @escaping () -> Void) {
        guard let goingOn = self.goingOn, !self.isEnding else { return }
        let listens = goingOn.ports.map { OriginalListeners.listen(on: $0) } ?? true
        guard listens, NIODeadline.now() < end else { return done() }
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.lookEvery) { [weak self] in
            self?.lookAtOriginal(until: end, then: done)
        }
    }

    // MARK: Shutting down

    private var drainTime: TimeAmount {
        let drain = self.configuration.shutdownDrain
        return self.goingOn.map { min(drain, max(.zero, $0.killedAt - Self.keptForEnd - .now())) } ?? drain
    }

    /// Stops taking clients, lets open connections continue for `shutdownDrain`, closes the workspaces' connections, and
    /// then ends.
    public func shutDown() -> EventLoopFuture<Void> {
        let promise = self.eventLoop.makePromise(of: Void.self)
        self.isEnding = true
        self.unusedTimer?.cancel()
        self.awayTimer?.cancel()
        for drain in self.originalDrains.values { drain.timer?.cancel() }
        self.changeRulesNow()
        if let redirect = self.redirect {
            // Connections that were redirected but not yet accepted still arrive, and are passed on.
            self.diverted = DivertedPorts()
            do throws(DiversionError) { try redirect.divert(DivertedPorts()) } catch {
                self.log.error("the diversion can't be withdrawn: \(error)")
            }
        } else {
            self.diversion.close()
        }
        let finish = { [weak self] in
            guard let self, self.onIdle != nil else { return }
            self.onIdle = nil
            self.flows.close()
            for link in self.links.values { link.abandonAll() }
            for key in self.links.keys { self.server?.close(key, .noError) }
            for standing in self.standings.values { self.finishAudit(of: standing) }
            // Closed after the resets are sent: a redirect must still translate their addresses.
            self.diversion.close()
            self.server?.stopListening()
            // CLOSE messages are sent in this turn of the loop; a workspace that doesn't get one sees its carrier close.
            self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(50)) { promise.succeed(()) }
        }
        self.onIdle = finish
        self.log.info("ending", metadata: ["open": "\(self.clients)"])
        if self.clients == 0 { finish() }
        self.eventLoop.assumeIsolated().scheduleTask(in: self.drainTime) { finish() }
        return promise.futureResult
    }
}
