import Environments
import InterceptModel
import SidecarInterface

/// Which container serves a replica, and how it is made.
extension DockerClaim {
    private static let readyWithin: Int64 = 15_000

    enum Made {
        case made
        case nameTaken
    }

    enum ImageWish: Equatable {
        case any
        case of(id: String)
        /// The engine has no image of that name; creating the container will fail and report it.
        case missing
    }

    /// Images are compared by id: an engine may write a name differently from how it was asked for, and by now the name may
    /// belong to another image.
    func wantedImage() async -> ImageWish {
        guard let name = self.options.image else { return .any }
        return await self.model.imageID(of: name).map { .of(id: $0) } ?? .missing
    }

    enum Standing {
        case useful
        /// Another workspace is making the sidecar.
        case coming
        /// The sidecar is of no use to this claim.
        case useless
    }

    /// Whether the sidecar runs in this replica's network, and knows the addresses from which the machine's health probes come.
    func standing(of sidecar: DockerSidecar, for replica: DockerService.Replica) -> Standing {
        guard sidecar.isNamedAsMade, sidecar.target == replica.container.id else { return .useless }
        guard sidecar.isRunning else {
            // One that was paused by hand serves nobody either. What this workspace has begun to make didn't come to the end;
            // nor did what a machine had begun to make that was lost since.
            guard sidecar.admits, sidecar.isComing, !sidecar.isStuck, sidecar.holder.publicKey != self.key else {
                return .useless
            }
            return .coming
        }
        guard sidecar.admits || sidecar.holder.publicKey == self.key && self.record.kind == .intercept else {
            return .useless
        }
        if let started = sidecar.started, let since = replica.container.started,
            DockerContainer.isLater(since, than: started)
        {
            return .useless
        }
        if let namespace = sidecar.namespace, namespace != replica.container.namespace { return .useless }
        if let nodes = sidecar.nodes, !nodes.isSuperset(of: replica.container.gateways) { return .useless }
        return .useful
    }

    func serves(_ sidecar: DockerSidecar) -> Bool { Set(self.options.ports).isSubset(of: sidecar.ports) }

    static func has(_ sidecar: DockerSidecar, _ image: ImageWish) -> Bool {
        switch image {
        case .any: true
        // A sidecar that was just made has no image id yet, and was made from the requested image.
        case .of(let id): sidecar.imageID.map { $0 == id } ?? true
        case .missing: false
        }
    }

    func isFit(_ sidecar: DockerSidecar, _ image: ImageWish) -> Bool {
        Self.has(sidecar, image) && self.serves(sidecar)
    }

    /// Removes a sidecar that isn't fit. A shared one decides itself whether it ends: whoever is admitted before its decision is
    /// kept, and whoever asks after it is told that the sidecar ends.
    ///
    /// - Returns: why that can't be told yet, as a clause. Nil: it has gone.
    func makeRoom(of sidecar: DockerSidecar, _ image: ImageWish) async throws -> String? {
        guard sidecar.admits else {
            try await self.environment.remove([sidecar])
            return nil
        }
        let need: String
        switch try await self.admission.end(sidecar) {
        case .ending:
            // By itself, so that it ends its rules in order; by force if it hangs.
            try await self.waitForEnd(of: [sidecar])
            let left = try await self.model.project(.now).sidecars.filter { $0.id == sidecar.id }
            await self.model.forget([sidecar])
            try await self.environment.remove(left)
            return nil
        case .absent(let why):
            await self.model.touch()
            return why
        case .silent: throw DockerAdmission.silence(of: sidecar)
        case .needed(let by): need = by
        }
        let lacks =
            Self.has(sidecar, image)
            ? "doesn't serve port \(Set(self.options.ports).subtracting(sidecar.ports).sorted().map { "\($0)" }.joined(separator: ", "))"
            : "is of another image than --sidecar-image names"
        throw Problem(
            .failed,
            "the sidecar \(sidecar.name) \(lacks), and isn't replaced while \(need)",
            "Start again once they have stopped or ended; if you hold ports there, stop that first."
        )
    }

    func container(
        for replica: DockerService.Replica,
        of service: DockerService,
        _ sidecars: [DockerSidecar]
    ) async -> SidecarContainer {
        let isPodman = await self.model.isPodman()
        // Ports that other workspaces asked for at other replicas must be available here, too.
        let asked = sidecars.filter { $0.admits && $0.isAlive }.flatMap(\.ports)
        return SidecarContainer(
            project: service.project,
            service: service.label,
            replica: replica.number,
            target: replica.container.id,
            namespace: isPodman ? replica.container.namespace : nil,
            gateways: replica.container.gateways,
            image: self.options.image ?? SidecarContainer.defaultImage,
            ports: Set(service.ports + self.options.ports + asked).sorted(),
            record: self.record
        )
    }

    func make(_ container: SidecarContainer) async throws -> Made {
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
        let filters = ["name=^/?\(container.name)$", "label=\(SidecarLabel.key)=\(container.record.holder.publicKey)"]
        let words = ["ps", "--all", "--quiet", "--no-trunc"] + filters.flatMap { ["--filter", $0] }
        guard let said = try? await self.model.client.answer(words) else { return }
        let ids = said.split(separator: "\n").map(String.init).filter { DockerPlace.isSoundName($0) }
        guard !ids.isEmpty else { return }
        _ = try? await self.model.client.run(["rm", "--force"] + ids, within: DockerClient.longPatience)
    }

    /// Whether a container that has the name is neither a sidecar nor about to be one.
    func isForeign(_ name: String) async throws -> Bool {
        let format = "{{json (index .Config.Labels \"\(SidecarLabel.key)\")}}"
        let result = try await self.model.client.run(["container", "inspect", "--format", format, name])
        return result.code == 0
            && result.output.split(separator: "\n").first.map { $0 == "\"\"" || $0 == "null" } == true
    }
}
