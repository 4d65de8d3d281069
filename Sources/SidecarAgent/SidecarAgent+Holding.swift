import Carriers
import Diversion
import InterceptModel
import InterceptProtocol
import Logging
import NIOCore
import Noise
import Tunnel

/// Which workspaces hold ports of the service, and how the kernel's rules follow from that.
extension SidecarAgent {
    /// Serves the workspace's ports from now on. The caller has checked that the table refuses nothing of it.
    ///
    /// - Parameters:
    ///   - known: ports that this workspace had before. If it hasn't them now, they are given to it again without ending the
    ///     connections that are open to the original on them.
    ///   - done: called after the kernel's rules changed, with the error if the kernel refused.
    func hold(
        _ link: WorkspaceLink,
        _ holding: Holding,
        besides known: Set<UInt16>,
        then done: @escaping (DiversionError?) -> Void
    ) {
        let returning = holding.tcpPorts.filter { self.unstopped[$0] == link.key }
        self.table.hold(link.key, label: link.name, holding)
        self.changeRules { [weak self] change in
            switch change {
            case .success(let added):
                if let self, self.table[link.key]?.holding == holding, holding.kind == .intercept {
                    for port in holding.tcpPorts { self.unstopped[port] = nil }
                    let fresh = added.intersection(holding.tcpPorts).subtracting(known).subtracting(returning)
                    let delay = TimeAmount.seconds(Int64(holding.drainSeconds))
                    if !fresh.isEmpty { self.drainOriginals(fresh, in: delay, for: link) }
                }
                done(nil)
            case .failure(let error): done(error)
            }
        }
    }

    /// - Parameter isStopped: the workspace asked for it. Otherwise, when it returns and no other workspace has had its ports
    ///   meanwhile, connections to the original aren't drained.
    func releaseHolder(_ key: PublicKey, isStopped: Bool, then done: @escaping () -> Void = {}) {
        guard let entry = self.table[key] else { return done() }
        if entry.kind == .intercept {
            for port in entry.reserved where port.transport == .tcp {
                self.unstopped[port.number] = isStopped ? nil : key
            }
        }
        self.table.remove(key)
        self.diversionMayHaveChanged(then: done)
    }

    /// Something was lost or given back, so the ports that the kernel should redirect may be others now.
    func diversionMayHaveChanged(then done: @escaping () -> Void = {}) {
        self.changeRules { [weak self] change in
            // The kernel's dead-man set expires by itself.
            if case .failure(let error) = change { self?.changeLog.error("the diversion can't be changed: \(error)") }
            done()
        }
    }

    /// Changes the kernel's rules now, or together with other changes soon.
    private func changeRules(_ done: @escaping (RuleChanges.Change) -> Void) {
        if self.rules.next == nil {
            if !self.rulesDiffer || self.rules.pace.take() { return done(self.followingRules()) }
            let time = self.rules.pace.next
            self.rules.next = self.eventLoop.assumeIsolated().scheduleTask(deadline: time) { [weak self] in
                self?.changeRulesForAll()
            }
        }
        self.rules.waiting.append(done)
    }

    func changeRulesNow() {
        guard self.rules.next != nil else { return }
        self.rules.next?.cancel()
        self.changeRulesForAll()
    }

    private func changeRulesForAll() {
        self.rules.next = nil
        let waiting = self.rules.waiting
        self.rules.waiting = []
        if self.rulesDiffer { _ = self.rules.pace.take() }
        let change = self.followingRules()
        for done in waiting { done(change) }
        // Links whose queue of answers was full had stopped reading.
        for link in self.links.values { link.readControl() }
    }

    private func followingRules() -> RuleChanges.Change {
        do throws(DiversionError) { return .success(try self.applyDiversion()) } catch { return .failure(error) }
    }

    private var rulesDiffer: Bool { self.redirect != nil && !self.isEnding && self.wantedPorts != self.diverted }

    private var wantedPorts: DivertedPorts { DivertedPorts(self.table.divertedPorts) }

    /// - Returns: the TCP ports of which a workspace has all traffic now, and none had before.
    private func applyDiversion() throws(DiversionError) -> Set<UInt16> {
        guard let redirect = self.redirect, !self.isEnding else { return [] }
        let (ports, intercepted, before) = (self.wantedPorts, self.table.interceptedPorts, self.intercepted)
        // On other ports, new connections to the original can't be told from those to be ended, so none is.
        self.keepDrains(within: ports.tcp.intersection(intercepted))
        redirect.labels = self.table.labels(of: self.table.divertedPorts)
        if ports != self.diverted {
            try redirect.divert(ports)
            self.diverted = ports
        }
        self.intercepted = intercepted
        return intercepted.subtracting(before)
    }

    /// Connections that were open to the original before get the drain time, then both ends are closed: so a client that
    /// keeps its connection open also comes to the workspace.
    private func drainOriginals(_ ports: Set<UInt16>, in delay: TimeAmount, for link: WorkspaceLink) {
        var drain = self.originalDrains[link.key] ?? OriginalsDrain()
        drain.timer?.cancel()
        let (log, key) = (link.log, link.key)
        // Ports of an earlier call whose time isn't over are included; the time begins anew for all of this workspace's.
        drain.ports.formUnion(ports)
        for port in ports { drain.passed[port] = self.passed.numbers(on: port) }
        drain.timer = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            guard let self, let redirect = self.redirect,
                let drain = self.originalDrains.removeValue(forKey: key)
            else { return }
            let passed = drain.ports.flatMap { self.passed.channels(drain.passed[$0] ?? [], on: $0) }
            for channel in passed { channel.closeWithReset() }
            let ended = redirect.endOriginalConnections(on: drain.ports)
            log.info(
                "the drain time is over: connections to the original are ended",
                metadata: ["count": "\(ended.map { "\($0 + passed.count)" } ?? "as they speak")"]
            )
        }
        self.originalDrains[link.key] = drain
    }

    private func keepDrains(within ports: Set<UInt16>) {
        for (key, drain) in self.originalDrains {
            let still = drain.ports.intersection(ports)
            self.originalDrains[key]?.ports = still
            guard still.isEmpty else { continue }
            drain.timer?.cancel()
            self.originalDrains[key] = nil
        }
    }

    func closeConnection(of key: PublicKey, _ code: ErrorCode) { self.server?.close(key, code) }

    /// Reports all changes within one turn of the loop, or within the pace's interval, once: when a service changes hands,
    /// only the final state.
    func interceptMayHaveChanged() {
        guard self.onInterceptChange != nil, !self.changeIsScheduled else { return }
        self.changeIsScheduled = true
        let tell = { [self] in
            self.changeIsScheduled = false
            self.onInterceptChange?()
        }
        let loop = self.eventLoop.assumeIsolated()
        if self.tidings.take() { loop.execute(tell) } else { loop.scheduleTask(deadline: self.tidings.next, tell) }
    }
}
