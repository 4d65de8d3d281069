import Environments
import InterceptModel

/// Sidecars that earlier versions of kl have made. Each serves its maker alone, so the service is taken from one by another
/// container in its place.
extension DockerClaim {
    /// Another workspace that has the service by such sidecars.
    struct EarlierHolder {
        /// Those that live now.
        private(set) var sidecars: [DockerSidecar] = []
        /// All that were seen.
        private(set) var inTheWay: [DockerSidecar] = []

        mutating func find(in all: [DockerSidecar], besides key: String) {
            self.sidecars = all.filter { !$0.admits && $0.holder.publicKey != key && $0.isAlive && $0.isNamedAsMade }
            let new = self.sidecars.filter { one in !self.inTheWay.contains { $0.id == one.id } }
            self.inTheWay += new
        }
    }

    /// † Until the old holder's daemon has got the engine's event and has reacted, some tenths of a second pass.
    private static let endWithin = Duration.milliseconds(1_500)

    /// Makes a container with the name that the other holder's has. That one keeps serving under another name meanwhile.
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
    /// The renamed ones too: as long as one runs, it still takes connections.
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

    /// Ends our own that an earlier version has made. Stopped rather than killed, since they may still relay connections to the
    /// original.
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
