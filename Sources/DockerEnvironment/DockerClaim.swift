import CommandText
import Environments
import InterceptModel
import SidecarInterface

/// Makes the sidecars that a workspace needs for one service, or has the workspace's key admitted to sidecars that other
/// workspaces have made.
///
/// The name of a replica's sidecar is a lock: if several machines create a container of the same name at once, the engine lets
/// one of them succeed, and the others have their keys admitted to that one's sidecar. The first replica's sidecar decides
/// which workspace gets a port: a workspace that it refuses asks no other sidecar.
struct DockerClaim: ServiceClaim {
    let environment: DockerEnvironment
    var record: InterceptRecord
    let options: SidecarOptions

    var model: DockerModel { self.environment.model }
    var key: String { self.record.holder.publicKey }
    var admission: DockerAdmission { DockerAdmission(client: self.model.client, admission: Admission(self.record)) }

    /// † A container that is being removed keeps its name for some tenths of a second, and one that is being made takes as long
    /// until it runs.
    static let tries = 40
    static let pause = Duration.milliseconds(50)

    init(_ environment: DockerEnvironment, _ record: InterceptRecord, _ options: SidecarOptions) {
        self.environment = environment
        self.record = record
        self.options = options
    }

    /// Another workspace intercepts one of the ports.
    struct Held: Error {
        var record: InterceptRecord
    }

    /// What came of one try to be served by a replica's sidecar.
    enum Outcome {
        /// With the record of the workspace that had a port before.
        case served(takenFrom: InterceptRecord?)
        /// Not decided yet; with the reason, as a clause.
        case undecided(String)
    }

    // MARK: The claim

    func take(force: Bool) async throws -> ClaimResult {
        // Read the project anew: holders may have changed a moment ago, and the event about it may not have arrived yet.
        var project = try await self.model.project(.now)
        let image = await self.wantedImage()
        var earlier = EarlierHolder()
        var reason = ""
        for _ in 0..<Self.tries {
            let service = try self.environment.find(self.record.service, in: project)
            let all = project.sidecars(of: service.name)
            earlier.find(in: all, besides: self.key)
            if let other = earlier.sidecars.first, !force { return .heldBy(self.record(of: other)) }
            if let refusal = service.refusal { throw Problem(.failed, refusal) }
            guard let replica = service.usable.first else { continue }
            if !force, let other = try await self.holderElsewhere(of: service, all) { return .heldBy(other) }
            let hasSidecar = all.contains { self.standing(of: $0, for: replica) == .useful }
            let wanted = await self.container(for: replica, of: service, all)
            let outcome: Outcome
            do {
                outcome =
                    earlier.sidecars.contains { $0.target == wanted.target || $0.name == wanted.name }
                    ? try await self.replaceEarlier(among: all, by: wanted)
                    : try await self.serve(wanted, for: replica, among: all, image, force: force)
            } catch let held as Held {
                return .heldBy(held.record)
            }
            switch outcome {
            case .served(let before):
                if !force, !hasSidecar, let other = try await self.giveWay(at: wanted.name, of: service) {
                    return .heldBy(other)
                }
                // Only now, so that the service is never without a holder.
                try await self.endEarlier(earlier.inTheWay, among: all)
                if force { try await self.takeOver(all.filter { $0.replica != replica.number }) }
                let taken = before ?? earlier.inTheWay.first.map { self.record(of: $0) }
                return taken.map { .takenOver(from: $0) } ?? .claimed
            case .undecided(let why): reason = why
            }
            try await Task.sleep(for: Self.pause)
            project = try await self.model.project(.now)
            if !project.sidecars.contains(where: { $0.name == wanted.name }), try await self.isForeign(wanted.name) {
                throw Problem(
                    .failed,
                    "a container that is no sidecar of '\(service.name)' has the name '\(wanted.name)'",
                    "Rename or remove it."
                )
            }
        }
        throw self.stays(reason)
    }

    private func stays(_ reason: String) -> Problem {
        Problem(
            .failed,
            "the sidecar of \(self.record.service.quoted) admits nobody: \(reason)",
            "Look who makes it: docker ps --all"
        )
    }

    /// One try to have a replica's sidecar serve this workspace.
    private func serve(
        _ wanted: SidecarContainer,
        for replica: DockerService.Replica,
        among all: [DockerSidecar],
        _ image: ImageWish,
        force: Bool
    ) async throws -> Outcome {
        if let sidecar = all.first(where: { self.standing(of: $0, for: replica) == .useful }) {
            if self.isFit(sidecar, image) {
                return sidecar.admits ? try await self.enter(sidecar, force: force) : .served(takenFrom: nil)
            }
            if let why = try await self.makeRoom(of: sidecar, image) { return .undecided(why) }
        }
        let namesakes = all.filter { $0.name == wanted.name && self.standing(of: $0, for: replica) != .useful }
        if namesakes.contains(where: { self.standing(of: $0, for: replica) == .coming }) {
            return .undecided("its container doesn't run yet")
        }
        try await self.environment.remove(namesakes)
        switch try await self.make(wanted) {
        case .made: return .served(takenFrom: nil)
        case .nameTaken: return .undecided("its name stays taken")
        }
    }

    private func enter(_ sidecar: DockerSidecar, force: Bool) async throws -> Outcome {
        var before: InterceptRecord?
        for isForced in [false, true] {
            switch try await self.admission.admit(at: sidecar, force: isForced) {
            case .admitted(let words):
                await self.model.admitted(self.key, at: sidecar, words)
                return .served(takenFrom: before)
            case .absent(let why):
                await self.model.touch()
                return .undecided(why)
            case .silent: throw DockerAdmission.silence(of: sidecar)
            case .refused(let reason):
                throw Problem(.failed, "the sidecar \(sidecar.name) refuses: \(reason)")
            case .busy(let holder, let since):
                let other = InterceptRecord(
                    service: self.record.service,
                    holder: Member(label: holder, publicKey: ""),
                    since: since,
                    ports: []
                )
                guard force, !isForced else { throw Held(record: other) }
                before = other
            }
        }
        return .undecided("another workspace takes it over, too")
    }

    /// Takes our ports over at the other replicas, too. If that fails, `sidecars()` tries again to be admitted there.
    private func takeOver(_ sidecars: [DockerSidecar]) async throws {
        await withTaskGroup { group in
            for sidecar in sidecars where sidecar.admits && sidecar.isRunning && sidecar.isNamedAsMade {
                group.addTask { _ = try? await self.enter(sidecar, force: true) }
            }
        }
    }

    /// The record of a holder by a sidecar of an earlier version.
    func record(of sidecar: DockerSidecar) -> InterceptRecord {
        InterceptRecord(service: self.record.service, holder: sidecar.holder, since: sidecar.since, ports: [])
    }

    // MARK: Each replica's sidecar

    func sidecars() async throws -> [SidecarLocation] {
        // Use what `take` has just read and made.
        let project = if let known = await self.model.known { known } else { try await self.model.project(.now) }
        do {
            return try await self.sidecarsForAll(in: project, of: await self.wantedImage())
        } catch let held as Held {
            throw Problem(
                .busy,
                "'\(self.record.service)' was just taken over by \(held.record.holder.label)",
                "Ask them to stop it, or take it back with --force."
            )
        }
    }

    /// Makes a sidecar for each replica that can have one, or has our key admitted there.
    func sidecarsForAll(in project: DockerProject, of image: ImageWish) async throws -> [SidecarLocation] {
        let service = try self.environment.find(self.record.service, in: project)
        let all = project.sidecars(of: service.name)
        var claim = self
        // All sidecars of this claim are labelled with the time at which it was first taken.
        if let own = all.first(where: { $0.holder.publicKey == self.key && $0.isAlive }) {
            claim.record.since = own.since
        }
        var lacking: [DockerService.Replica] = []
        for replica in service.usable where !project.ending.contains(replica.container.id) {
            if await !self.isServed(replica, among: all, image) { lacking.append(replica) }
        }
        // If the first replica's sidecar refuses, no other is asked.
        if let first = lacking.first, first.number == service.usable.first?.number {
            try await claim.complete(first, of: service, all, image)
            lacking.removeFirst()
        }
        try await withThrowingTaskGroup { [claim] group in
            for replica in lacking {
                group.addTask { try await claim.complete(replica, of: service, all, image) }
            }
            try await group.waitForAll()
        }
        return try await self.locations()
    }

    private func isServed(
        _ replica: DockerService.Replica,
        among all: [DockerSidecar],
        _ image: ImageWish
    ) async -> Bool {
        guard let sidecar = all.first(where: { self.standing(of: $0, for: replica) == .useful }) else { return false }
        guard self.serves(sidecar), Self.has(sidecar, image) else { return false }
        guard sidecar.admits else { return true }
        return await self.model.isAdmitted(self.key, at: sidecar)
    }

    func locations() async throws -> [SidecarLocation] {
        let project = if let known = await self.model.known { known } else { try await self.model.project(.now) }
        let service = project.service(self.record.service)
        var own: [DockerSidecar] = []
        // Leave out a sidecar whose target container is about to end: connections given to it would be lost with the
        // container.
        for sidecar in project.sidecars(of: self.record.service)
        where sidecar.isRunning && sidecar.isNamedAsMade && !project.ending.contains(sidecar.target) {
            let isOurs =
                sidecar.admits
                ? await self.model.isAdmitted(self.key, at: sidecar) : sidecar.holder.publicKey == self.key
            if isOurs { own.append(sidecar) }
        }
        return try await self.environment.locations(of: own, service)
    }

    private func complete(
        _ replica: DockerService.Replica,
        of service: DockerService,
        _ sidecars: [DockerSidecar],
        _ image: ImageWish
    ) async throws {
        let wanted = await self.container(for: replica, of: service, sidecars)
        var sidecars = sidecars
        var reason = ""
        for _ in 0..<Self.tries {
            // A sidecar of an earlier version whose maker has lost the race for the first replica.
            try await self.environment.remove(
                sidecars.filter { !$0.admits && $0.name == wanted.name && $0.holder.publicKey != self.key }
            )
            switch try await self.serve(wanted, for: replica, among: sidecars, image, force: false) {
            case .served: return
            case .undecided(let why): reason = why
            }
            try await Task.sleep(for: Self.pause)
            let project = try await self.model.project(.now)
            sidecars = project.sidecars(of: service.name)
            if let other = project.record(of: service.name), !other.admits, other.holder.publicKey != self.key {
                throw Held(record: self.record(of: other))
            }
        }
        throw self.stays(reason)
    }
}
