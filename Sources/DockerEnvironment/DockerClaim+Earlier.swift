import Environments
import InterceptModel

/// Sidecars that earlier versions of kl have made. Each serves only the workspace that made it, so another workspace takes the
/// service over by a container in that sidecar's place.
extension DockerClaim {
    /// Another workspace that holds the service by sidecars of an earlier version.
    struct EarlierHolder {
        /// The holder's sidecars that run, or are about to run.
        private(set) var sidecars: [DockerSidecar] = []
        /// All sidecars of the holder that were seen during the claim.
        private(set) var inTheWay: [DockerSidecar] = []

        mutating func find(in all: [DockerSidecar], besides key: String) {
            self.sidecars = all.filter { !$0.admits && $0.holder.publicKey != key && $0.isAlive && $0.isNamedAsMade }
            let new = self.sidecars.filter { one in !self.inTheWay.contains { $0.id == one.id } }
            self.inTheWay += new
        }
    }

    /// † Until the old holder's daemon has got the engine's event and has reacted, some tenths of a second pass.
    private static let endWithin = Duration.milliseconds(1_500)

    /// Makes a container under the name of the other holder's sidecar, which meanwhile keeps serving under another name.
    func replaceEarlier(among all: [DockerSidecar], by wanted: SidecarContainer) async throws -> Outcome {
        let renamed = try await self.clear(wanted.name, of: all)
        do {
            switch try await self.make(wanted) {
            case .made: return .served(takenFrom: nil)
            case .nameTaken: return .undecided("its name stays taken")
            }
        } catch {
            // The old holder keeps the service.
            await self.giveBack(wanted.name, to: renamed)
            throw error
        }
    }

    /// Frees the name: removes our own sidecar that has it, or renames the other holder's.
    /// - Returns: the other holder's sidecar, if it was renamed.
    private func clear(_ name: String, of sidecars: [DockerSidecar]) async throws -> DockerSidecar? {
        var renamed: DockerSidecar?
        for sidecar in sidecars where sidecar.name == name && !sidecar.admits {
            let isOthers = sidecar.holder.publicKey != self.key && sidecar.isAlive
            guard isOthers else {
                try await self.environment.remove([sidecar])
                continue
            }
            let other = "\(name)-taken-\(UInt32.random(in: 0 ... .max))"
            _ = try await self.model.client.run(["rename", sidecar.id, other])
            renamed = sidecar
            await self.model.touch()
        }
        return renamed
    }

    private func giveBack(_ name: String, to sidecar: DockerSidecar?) async {
        guard let sidecar else { return }
        _ = try? await self.model.client.run(["rename", sidecar.id, name])
        await self.model.touch()
    }

    /// Waits until the old holder's daemon has reset its connections and removed the sidecars, which it does as soon as it
    /// gets the event. Those still there at the limit are removed here, which resets their open connections.
    ///
    /// Renamed sidecars are included: as long as one runs, it still takes connections.
    func endEarlier(_ sidecars: [DockerSidecar], among all: [DockerSidecar]) async throws {
        guard !sidecars.isEmpty else { return }
        let strays = all.filter { stray in
            !stray.isNamedAsMade && stray.isAlive && !sidecars.contains { $0.id == stray.id }
        }
        let ended = sidecars + strays
        let limit = ContinuousClock.now + Self.endWithin
        while ContinuousClock.now < limit {
            let project = try await self.model.project(.now)
            guard project.sidecars.contains(where: { left in ended.contains { $0.id == left.id } }) else { break }
            try await Task.sleep(for: Self.pause)
        }
        try await self.environment.remove(ended)
    }

    /// Ends this workspace's own sidecars of earlier versions. They are stopped rather than killed, since they may still pass
    /// connections on to the original.
    func removeEarlier(_ sidecars: [DockerSidecar]) async throws {
        let running = sidecars.filter(\.isRunning)
        if !running.isEmpty {
            let words = ["stop", "-t", "\(Self.drainSeconds)"] + running.map(\.id)
            _ = try await self.model.client.run(words, within: DockerClient.longPatience)
        }
        try await self.environment.remove(sidecars)
    }

    /// A sidecar that is told to end drains for at most 10 s; one that hangs is then killed.
    private static let drainSeconds = 11
}
