import Environments
import InterceptModel
import NIOCore
import WorkspaceAPI
import WorkspaceAgent

extension Intercept {
    /// Gives the service back: first new connections, then, within the drain time, open ones, then the claim.
    func stop(drainSeconds: Int?, _ progress: Progress) async throws {
        var watch = Stopwatch()
        let hasTunnels = !self.machine.isAbandoned && self.replicas.contains { $0.outcome == nil }
        self.handle(.stop)
        if hasTunnels {
            self.endAgents(drainSeconds)
        } else {
            await self.releaseSidecars()
        }
        let letting = Task { await self.letGoneSidecarsBe() }
        defer { letting.cancel() }
        // The agents' own time limits end each of these waits.
        _ = await self.changes.wait { self.replicas.allSatisfy { $0.isWithdrawn || $0.outcome != nil } }
        if self.request.kind == .mirror {
            progress(Step(.copiesEnded, seconds: watch.lap()))
        } else {
            progress(await self.whoAnswersNow(&watch))
        }
        _ = await self.changes.wait { self.replicas.allSatisfy { $0.outcome != nil } }
        let (open, reset) = self.replicas.reduce((0 as UInt64, 0 as UInt64)) { sum, replica in
            guard case .stopped(let stopped) = replica.outcome else { return sum }
            return (sum.0 + stopped.open, sum.1 + stopped.reset)
        }
        progress(Step(.drained(open: open, reset: reset), seconds: watch.lap()))
        try await self.releaseClaim()
    }

    /// A sidecar that has confirmed the withdrawal gives new connections to the original. If one hasn't, only the
    /// environment knows whether there is an original that runs.
    private func whoAnswersNow(_ watch: inout Stopwatch) async -> Step {
        let isConfirmed = !self.replicas.isEmpty && self.replicas.allSatisfy(\.isWithdrawn)
        let others = await self.otherHolders()
        let left = Set(self.portsLeft.map { "\($0)" })
        if !left.isEmpty, left.isSubset(of: others.flatMap(\.ports)) {
            let concerned = others.filter { !left.isDisjoint(with: $0.ports) }
            return Step(.holdersAnswer(concerned), seconds: watch.lap())
        }
        guard !isConfirmed, let reason = await self.whyNothingAnswers() else {
            return Step(.originalAnswers(besides: others), seconds: watch.lap())
        }
        return Step(.nothingAnswers(because: reason), seconds: watch.lap())
    }

    /// Other workspaces that get clients of the service. None if the environment can't tell.
    private func otherHolders() async -> [PortHolder] {
        let records = (try? await self.environment.intercepts()) ?? []
        return records.filter { record in
            record.service == self.service && record.kind == .intercept && record.isDiverting != false
                && record.holder.publicKey != self.identity.member.publicKey
        }.map { record in
            // A record without ports stands for all of them.
            PortHolder(record.holder, ports: record.ports.isEmpty ? self.portsLeft : record.ports.map(\.port).sorted())
        }
    }

    /// The ports that this stop gives up.
    private var portsLeft: [ServicePort] {
        self.request.mappings.isEmpty ? self.portsOnRecord : self.request.mappings.map(\.port)
    }

    /// Nil: the original answers, or it can't be told.
    private func whyNothingAnswers() async -> String? {
        do {
            let services = try await self.environment.services()
            guard let service = services.first(where: { $0.name == self.service }) else {
                return "it isn't in the environment any more"
            }
            return service.state == .stopped ? service.reason ?? "it is stopped" : nil
        } catch let error as Problem where error.code == .notUp {
            return self.environment.reference.notUpReason
        } catch {
            return nil
        }
    }

    /// Gives up on sidecars that went with their service's containers, so that their answers aren't waited for.
    private func letGoneSidecarsBe() async {
        while (try? await Task.sleep(for: .seconds(1))) != nil {
            let waited = self.replicas.filter { $0.outcome == nil }.map(\.location)
            guard let gone = try? await self.claim.gone(of: waited), !Task.isCancelled else { continue }
            for replica in self.replicas where replica.outcome == nil && gone.contains(replica.location) {
                self.remove(replica)
            }
            self.changes.happened()
        }
    }

    private func endAgents(_ drainSeconds: Int?) {
        for replica in self.replicas where replica.outcome == nil {
            if let drainSeconds, drainSeconds != self.request.drainSeconds, self.request.kind == .intercept {
                replica.agent.update { $0.drainSeconds = drainSeconds }
            }
            // An agent that is just redialling has 1 s to get a carrier and tell its sidecar.
            replica.agent.shutDown(patience: .seconds(1))
        }
    }

    /// After a crash: tells all sidecars that can be reached to give up what they still hold for this key.
    private func releaseSidecars() async {
        for replica in self.replicas { self.remove(replica) }
        let locations = (try? await self.environment.sidecars(of: self.service)) ?? []
        for location in locations { _ = self.connect(location, onlyReleases: true) }
    }

    private func releaseClaim() async throws {
        self.mayBeClaimed = false
        await self.lookEnded()
        do {
            try await self.claim.release()
        } catch let error as Problem where error.code == .notUp || error.code == .noSuchService {
            // The record went with the environment.
        } catch let error as Problem {
            throw Problem(
                error.code,
                "'\(self.service)' stays on record as yours",
                "Stop it again once this is mended: \(error.description)"
            )
        }
    }

    /// Leaves the intercept to the next daemon: open connections get a little time, and the claim stays.
    func handOver(within limit: TimeAmount) async {
        self.handle(.stop)
        self.onChange = nil
        for replica in self.replicas where replica.outcome == nil { replica.agent.shutDown() }
        _ = await self.changes.wait(within: limit) { self.replicas.allSatisfy { $0.outcome != nil } }
        self.dispose()
    }
}
