import Environments
import HostSupport
import InterceptModel

/// Finds what a user can connect to on a Docker engine.
public enum DockerDiscovery {
    /// In milliseconds: a list doesn't wait for an engine that hangs.
    private static let patience: Int64 = 1_500

    /// The compose projects of the engine that `docker` reaches here, and environments used before. Those whose engine
    /// doesn't answer in time are listed as down, with the reason.
    public static func find(
        known: [EnvironmentReference] = [],
        environment: [String: String] = Spawn.ownEnvironment
    ) async -> [FoundEnvironment] {
        let known = known.compactMap { $0.kind == .docker ? $0.docker : nil }
        // Without a client program, nothing can be asked.
        guard (try? FilterProcess.program(["docker"])) != nil else {
            return known.map { FoundEnvironment($0.reference, .down, reason: "there is no docker program in PATH") }
        }
        var engines: [DockerEngine] = []
        if let here = try? await DockerClient.currentEngine(environment: environment, within: Self.patience) {
            engines.append(here)
        }
        for place in known where !engines.contains(place.engine) { engines.append(place.engine) }
        // † More engines than a user has.
        return await withTaskGroup(of: (Int, [FoundEnvironment]).self) { group in
            for (index, engine) in engines.prefix(4).enumerated() {
                group.addTask { (index, await Self.projects(of: engine, known.filter { $0.engine == engine })) }
            }
            return await group.reduce(into: []) { $0.append($1) }.sorted { $0.0 < $1.0 }.flatMap(\.1)
        }
    }

    private static func projects(of engine: DockerEngine, _ known: [DockerPlace]) async -> [FoundEnvironment] {
        let client = DockerClient(engine: engine)
        guard let said = try? await client.answer(DockerRows.arguments, within: Self.patience) else {
            return known.map { FoundEnvironment($0.reference, .down, reason: "its Docker engine doesn't answer") }
        }
        let projects = DockerRows.projects(said)
        let running = projects.map { DockerPlace(.project($0), engine: engine) }
        let others = known.filter { !running.contains($0) }
        return running.map { FoundEnvironment($0.reference, .up) }
            + others.map { place in
                let ids = DockerRows.ids(DockerRows.rows(said), place.selection)
                return FoundEnvironment(place.reference, ids.isEmpty ? .down : .up)
            }
    }

    /// An environment that the user has named, on the engine that `docker` reaches here.
    public static func look(_ selection: DockerPlace.Selection) async throws -> EnvironmentReference {
        let engine = try await DockerClient.currentEngine()
        let client = DockerClient(engine: engine)
        let place = DockerPlace(selection, engine: engine)
        switch selection {
        case .project(let name):
            let projects = DockerRows.projects(try await client.answer(DockerRows.arguments))
            if projects.contains(name) { return place.reference }
            let suggestion = Suggestion.sentence(for: name, among: projects)
            let list =
                projects.isEmpty ? "It has no compose project" : "It has \(projects.prefix(10).joined(separator: ", "))"
            throw Problem(
                .failed,
                "there is no compose project \(name.quoted) on the Docker engine at \(engine.name.printable)."
                    + (suggestion.isEmpty ? " \(list)." : suggestion)
            )
        case .network(let name):
            guard DockerPlace.isSoundName(name) else {
                throw Problem(.failed, "\(name.quoted) can't be a network's name", "See: docker network ls")
            }
            let result = try await client.run(["network", "inspect", "--format", "{{.Name}}", name])
            guard result.code == 0 else {
                guard result.errors.lowercased().contains("no such network") || result.errors.contains("not found")
                else {
                    throw client.error(result)
                }
                throw Problem(
                    .failed,
                    "there is no network \(name.quoted) on the Docker engine at \(engine.name.printable)",
                    "See: docker network ls"
                )
            }
            return place.reference
        }
    }

    /// Whether the engine has the sidecar's image.
    public static func hasImage(_ image: String?, _ reference: EnvironmentReference) async throws -> Bool {
        guard let engine = reference.docker?.engine else { return false }
        let client = DockerClient(engine: engine)
        let result = try await client.run([
            "image", "inspect", "--format", "{{.Id}}", image ?? SidecarContainer.defaultImage,
        ])
        if result.code == 0 { return true }
        guard result.errors.lowercased().contains("no such image") else { throw client.error(result) }
        return false
    }

    /// The client's arguments that select an environment's engine.
    public static func clientWords(_ reference: EnvironmentReference) -> [String]? { reference.docker?.engine.words }

    /// The error for a user who asked for an image that the engine doesn't have.
    public static func noImage(_ image: String?) -> Problem {
        Problem(.failed, DockerFailure.noImage(image ?? SidecarContainer.defaultImage))
    }
}
