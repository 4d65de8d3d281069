import Environments
import InterceptModel

/// Creates and replaces one workspace's sidecars for one service.
///
/// The name of the first replica's sidecar is the lock: if several machines create a container of the same name at once,
/// the engine lets one of them succeed. That container's labels are the intercept's record, and can't be changed.
struct DockerClaim: ServiceClaim {
    private let environment: DockerEnvironment
    private var record: InterceptRecord
    private let options: SidecarOptions

    private var model: DockerModel { self.environment.model }
    private var key: String { self.record.holder.publicKey }

    /// † A container that is being removed keeps its name for some tenths of a second.
    private static let tries = 40
    private static let pause = Duration.milliseconds(50)
    /// † Until the old holder's daemon has got the engine's event and has reacted, some tenths of a second pass.
    private static let endWithin = Duration.milliseconds(1_500)
    private static let readyWithin: Int64 = 15_000

    init(_ environment: DockerEnvironment, _ record: InterceptRecord, _ options: SidecarOptions) {
        self.environment = environment
        self.record = record
        self.options = options
    }

    // MARK: The record

    func take(force: Bool) async throws -> ClaimResult {
        // The holder may have changed a moment ago, before the event about it arrives.
        var project = try await self.model.project(.now)
        let image = await self.wantedImage()
        var taken: InterceptRecord?
        var inTheWay: [DockerSidecar] = []
        for _ in 0..<Self.tries {
            let service = try self.environment.find(self.record.service, in: project)
            let all = project.sidecars(of: service.name)
            let others = all.filter { $0.holder.publicKey != self.key && $0.isAlive && $0.isNamedAsMade }
            if let other = others.first {
                let record = self.record(of: other)
                guard force else { return .heldBy(record) }
                taken = taken ?? record
            }
            if let refusal = service.refusal { throw Problem(.failed, refusal) }
            guard let replica = service.usable.first else { continue }
            if others.isEmpty, all.contains(where: { self.isUseful($0, for: replica, of: image) }) {
                try await self.environment.remove(inTheWay)
                return taken.map { .takenOver(from: $0) } ?? .claimed
            }
            let wanted = await self.container(for: replica, of: service)
            inTheWay += others.filter { other in !inTheWay.contains { $0.id == other.id } }
            let renamed = try await self.clear(wanted.name, of: all)
            let outcome: Outcome
            do {
                outcome = try await self.make(wanted)
            } catch {
                // The old holder keeps the service.
                await self.giveBack(wanted.name, to: renamed)
                throw error
            }
            switch outcome {
            case .made:
                // Remove the old holder's sidecars only now, so that the service is never without a holder. Include the
                // renamed one: as long as it runs, it still takes connections.
                let strays = all.filter { stray in
                    !stray.isNamedAsMade && stray.isAlive && !inTheWay.contains { $0.id == stray.id }
                }
                try await self.end(inTheWay + strays)
                return taken.map { .takenOver(from: $0) } ?? .claimed
            case .nameTaken: break
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
        throw Problem(
            .failed,
            "the name of the sidecar of \(self.record.service.quoted) stays taken",
            "Look who makes it: docker ps --all"
        )
    }

    /// Frees the name: removes our own sidecar that has it, or renames the other holder's.
    /// - Returns: the other holder's sidecar, if it was renamed.
    private func clear(_ name: String, of sidecars: [DockerSidecar]) async throws -> DockerSidecar? {
        var renamed: DockerSidecar?
        for sidecar in sidecars where sidecar.name == name {
            let isOthers = sidecar.holder.publicKey != self.key && sidecar.isAlive
            guard isOthers else {
                try await self.environment.remove([sidecar])
                continue
            }
            // It keeps serving under another name until ours runs.
            let other = "\(name)-taken-\(UInt32.random(in: 0 ... .max))"
            _ = try await self.model.client.run(["rename", sidecar.id, other])
            renamed = sidecar
            await self.model.touch()
        }
        return renamed
    }

    /// Waits until the old holder's daemon has reset its connections and removed the sidecars, which it does as soon as it
    /// gets the event. Those still there at the limit are removed here, which resets their open connections.
    private func end(_ sidecars: [DockerSidecar]) async throws {
        guard !sidecars.isEmpty else { return }
        let limit = ContinuousClock.now + Self.endWithin
        while ContinuousClock.now < limit {
            let project = try await self.model.project(.now)
            guard project.sidecars.contains(where: { left in sidecars.contains { $0.id == left.id } }) else { break }
            try await Task.sleep(for: Self.pause)
        }
        try await self.environment.remove(sidecars)
    }

    private func giveBack(_ name: String, to sidecar: DockerSidecar?) async {
        guard let sidecar else { return }
        _ = try? await self.model.client.run(["rename", sidecar.id, name])
        await self.model.touch()
    }

    private func isForeign(_ name: String) async throws -> Bool {
        let format = "{{json (index .Config.Labels \"\(SidecarLabel.key)\")}}"
        let result = try await self.model.client.run(["container", "inspect", "--format", format, name])
        return result.code == 0
            && result.output.split(separator: "\n").first.map { $0 == "\"\"" || $0 == "null" } == true
    }

    private func record(of sidecar: DockerSidecar) -> InterceptRecord {
        InterceptRecord(service: self.record.service, holder: sidecar.holder, since: sidecar.since, ports: [])
    }

    // MARK: Each replica's sidecar

    func sidecars() async throws -> [SidecarLocation] {
        // Use what `take` has just read and made.
        let project = if let known = await self.model.known { known } else { try await self.model.project(.now) }
        var claim = self
        // Each of its sidecars is labelled with the time at which the claim was first taken.
        if let record = project.record(of: self.record.service), record.holder.publicKey == self.key {
            claim.record.since = record.since
        }
        return try await claim.sidecarsForAll(in: project, of: await self.wantedImage())
    }

    /// One for each replica that can have a sidecar. The caller holds the record.
    private func sidecarsForAll(in project: DockerProject, of image: ImageWish) async throws -> [SidecarLocation] {
        let service = try self.environment.find(self.record.service, in: project)
        let all = project.sidecars(of: service.name)
        let lacking = service.usable.filter { replica in
            !project.ending.contains(replica.container.id)
                && !all.contains { self.isUseful($0, for: replica, of: image) }
        }
        try await withThrowingTaskGroup { group in
            for replica in lacking {
                group.addTask { try await self.complete(replica, of: service, all) }
            }
            try await group.waitForAll()
        }
        return try await self.locations()
    }

    private func locations() async throws -> [SidecarLocation] {
        let project = if let known = await self.model.known { known } else { try await self.model.project(.now) }
        let service = project.service(self.record.service)
        // Leave out a sidecar whose target container is about to end: connections given to it would be lost with the
        // container.
        let own = project.sidecars(of: self.record.service).filter {
            $0.holder.publicKey == self.key && $0.isRunning && $0.isNamedAsMade && !project.ending.contains($0.target)
        }
        return try await self.environment.locations(of: own, service)
    }

    /// Makes a replica's sidecar. If a sidecar has its name already while the record is ours, that one's holder has lost
    /// the race for the record, and the sidecar is removed.
    private func complete(
        _ replica: DockerService.Replica,
        of service: DockerService,
        _ sidecars: [DockerSidecar]
    ) async throws {
        let wanted = await self.container(for: replica, of: service)
        var inTheWay = sidecars.filter { $0.name == wanted.name && $0.holder.publicKey == self.key }
        for _ in 0..<Self.tries {
            try await self.environment.remove(inTheWay)
            if case .made = try await self.make(wanted) { return }
            try await Task.sleep(for: Self.pause)
            let project = try await self.model.project(.now)
            guard let record = project.record(of: service.name), record.holder.publicKey == self.key else {
                let holder = project.record(of: service.name)?.holder.label ?? "another developer"
                throw Problem(
                    .busy,
                    "'\(service.name)' was just taken over by \(holder)",
                    "Ask them to stop it, or take it back with --force."
                )
            }
            inTheWay = project.sidecars(of: service.name).filter { $0.name == wanted.name }
        }
        throw Problem(
            .failed,
            "the name '\(wanted.name)' of a sidecar stays taken",
            "Look who has it: docker ps --all"
        )
    }

    // MARK: Upkeep

    func reconcile(_ occasion: ReconcileOccasion) async throws -> ClaimState {
        if occasion == .doubtful { await self.model.touch() }
        var project = try await self.model.project(.followed)
        let name = self.record.service
        if let holder = project.record(of: name), holder.holder.publicKey != self.key {
            return .lost(to: self.record(of: holder))
        }
        let own = project.sidecars(of: name).filter { $0.holder.publicKey == self.key }
        guard let service = project.service(name) else { return .sidecars([]) }
        // Sidecars whose replica has gone, or is in another network namespace now. The sidecar of a paused replica stays,
        // since the replica comes back unchanged.
        let present = service.replicas.filter { $0.isUsable || $0.container.status == "paused" }
        let useless = own.filter { sidecar in
            sidecar.isNamedAsMade && !present.contains { self.isUseful(sidecar, for: $0, of: .any) }
        }
        try await self.environment.remove(useless)
        if !useless.isEmpty, let known = await self.model.known { project = known }
        let left = own.filter { sidecar in !useless.contains { $0.id == sidecar.id } }
        if project.record(of: name) == nil {
            // Our sidecar has been renamed: another workspace is taking the service over right now.
            if left.contains(where: { !$0.isNamedAsMade && $0.isRunning }) {
                return .sidecars(try await self.environment.locations(of: left, service))
            }
            guard !service.usable.isEmpty else { return .sidecars([]) }
            if case .heldBy(let other) = try await self.take(force: false) { return .lost(to: other) }
            if let known = await self.model.known { project = known }
        }
        do {
            // A running sidecar keeps its image: replacing it would end its open connections.
            return .sidecars(try await self.sidecarsForAll(in: project, of: .any))
        } catch {
            let holder = try await self.model.project(.now).record(of: name)
            if let holder, holder.holder.publicKey != self.key { return .lost(to: self.record(of: holder)) }
            // Return the sidecars that run; the missing ones are tried again later.
            let locations = try await self.locations()
            guard !locations.isEmpty else { throw error }
            return .sidecars(locations)
        }
    }

    func gone(of sidecars: [SidecarLocation]) async throws -> [SidecarLocation] {
        let there = try await self.environment.sidecars(of: self.record.service)
        return sidecars.filter { sidecar in !there.contains { $0.publicKey == sidecar.publicKey } }
    }

    func release() async throws {
        let project = try await self.model.project(.now)
        let own = project.sidecars(of: self.record.service).filter { $0.holder.publicKey == self.key }
        // Stopped rather than killed, since they may still relay connections to the original.
        let running = own.filter(\.isRunning)
        if !running.isEmpty {
            let words = ["stop", "-t", "\(Self.drainSeconds)"] + running.map(\.id)
            _ = try await self.model.client.run(words, within: DockerClient.longPatience)
        }
        try await self.environment.remove(own)
    }

    /// A sidecar that is told to end drains for at most 10 s; one that hangs is then killed.
    private static let drainSeconds = 11

    // MARK: One container

    private enum ImageWish: Equatable {
        case any
        case of(id: String)
        /// The engine has no image of that name; creating the container will fail and report it.
        case missing
    }

    /// Images are compared by id: an engine may write a name differently from how it was asked for, and by now the name may
    /// belong to another image.
    private func wantedImage() async -> ImageWish {
        guard let name = self.options.image else { return .any }
        return await self.model.imageID(of: name).map { .of(id: $0) } ?? .missing
    }

    /// It runs in this replica's network, can divert the requested ports, knows the addresses the machine's health probes
    /// come from, and has the requested image.
    private func isUseful(
        _ sidecar: DockerSidecar,
        for replica: DockerService.Replica,
        of image: ImageWish
    ) -> Bool {
        guard sidecar.holder.publicKey == self.key, sidecar.isRunning, sidecar.isNamedAsMade,
            sidecar.target == replica.container.id
        else { return false }
        if let started = sidecar.started, let since = replica.container.started,
            DockerContainer.isLater(since, than: started)
        {
            return false
        }
        if let namespace = sidecar.namespace, namespace != replica.container.namespace { return false }
        if let nodes = sidecar.nodes, !nodes.isSuperset(of: replica.container.gateways) { return false }
        switch image {
        case .any: break
        // A sidecar that was just made has no image id yet, and was made from the requested image.
        case .of(let id): if let own = sidecar.imageID, own != id { return false }
        case .missing: return false
        }
        return Set(self.options.ports).isSubset(of: sidecar.ports)
    }

    private func container(for replica: DockerService.Replica, of service: DockerService) async -> SidecarContainer {
        let isPodman = await self.model.isPodman()
        return SidecarContainer(
            project: service.project,
            service: service.label,
            replica: replica.number,
            target: replica.container.id,
            namespace: isPodman ? replica.container.namespace : nil,
            gateways: replica.container.gateways,
            image: self.options.image ?? SidecarContainer.defaultImage,
            ports: Set(service.ports + self.options.ports).sorted(),
            holder: self.record.holder,
            since: self.record.since
        )
    }

    private enum Outcome {
        case made
        case nameTaken
    }

    private func make(_ container: SidecarContainer) async throws -> Outcome {
        let result = try await self.model.client.run(
            container.arguments,
            within: Self.readyWithin,
            until: { SidecarWords.last(in: $0) != nil }
        )
        if let words = SidecarWords.last(in: result.output), result.isEnough {
            await self.model.add(DockerSidecar(container), words)
            return .made
        }
        await self.model.touch()
        if DockerFailure.isNameTaken(result.errors) { return .nameTaken }
        // A container that was created but doesn't run still has the name.
        await self.removeAfterFailure(container)
        throw DockerFailure.error(result, container, self.record.service, self.model.client)
    }

    private func removeAfterFailure(_ container: SidecarContainer) async {
        let filters = ["name=^/?\(container.name)$", "label=\(SidecarLabel.key)=\(container.holder.publicKey)"]
        let words = ["ps", "--all", "--quiet", "--no-trunc"] + filters.flatMap { ["--filter", $0] }
        guard let said = try? await self.model.client.answer(words) else { return }
        let ids = said.split(separator: "\n").map(String.init).filter { DockerPlace.isSoundName($0) }
        guard !ids.isEmpty else { return }
        _ = try? await self.model.client.run(["rm", "--force"] + ids, within: DockerClient.longPatience)
    }
}

/// Explains to people why a sidecar's container couldn't be made.
enum DockerFailure {
    static func isNameTaken(_ errors: String) -> Bool {
        errors.contains("is already in use by container") || errors.contains("name is reserved")
    }

    static func error(
        _ result: DockerClient.Result,
        _ container: SidecarContainer,
        _ service: String,
        _ client: DockerClient
    ) -> Problem {
        let small = result.errors.lowercased()
        if small.contains("no such image") || small.contains("unable to find image") {
            return Problem(.failed, Self.noImage(container.image))
        }
        let said = DockerClient.reason(result.errors)
        if small.contains("non running container") || small.contains("no such container")
            || small.contains("not running")
        {
            return Problem(
                .failed,
                "'\(service)' ended while its sidecar was made",
                "Check it, then try again: kl env status"
            )
        }
        if result.isLate {
            return Problem(
                .failed,
                "the sidecar of '\(service)' says nothing, and was removed: \(said)",
                "Look at the engine: kl doctor"
            )
        }
        // Exit code 125 comes from the client or the engine; any other is the sidecar's own.
        guard result.code == 125 || result.code == nil else {
            let last = said.hasPrefix("kl-sidecar: ") ? String(said.dropFirst("kl-sidecar: ".count)) : said
            let end = last.hasSuffix(".") ? "" : "."
            return Problem(.failed, "the sidecar of '\(service)' didn't start: \(last)\(end)")
        }
        return DockerClient.error(saying: result.errors, at: client.engine.name)
    }

    static func noImage(_ image: String) -> String {
        let tag = image == SidecarContainer.defaultImage ? "" : " --tag \(image.printable.shellQuoted)"
        return
            "the engine has no image '\(image.printable)', and none is pulled unasked. Make it, in kl's source folder:"
            + " agent/image\(tag)"
    }
}
