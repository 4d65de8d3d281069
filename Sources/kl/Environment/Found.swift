import ComposeFiles
import EnvironmentCatalog
import Environments
import HostSupport
import InterceptModel
import Libc
import LocalEnvironment
import WorkspaceAPI

/// The environments to choose from: compose files in this folder and above it, environments used before, and what a Docker
/// engine runs.
struct Found {
    let all: [FoundEnvironment]

    init(_ all: [FoundEnvironment]) { self.all = all }

    /// Only the environments of compose files: no other program is asked.
    init(filesOf workspace: Workspace) throws {
        self.all = LocalDiscovery.find(from: Self.workingFolder, known: try workspace.knownReferences())
    }

    init(_ workspace: Workspace) async throws {
        self.all = await EnvironmentCatalog.find(from: Self.workingFolder, known: try workspace.knownReferences())
    }

    static var workingFolder: String {
        guard let path = getcwd(nil, 0) else { return "/" }
        defer { free(path) }
        return String(cString: path)
    }

    /// The environment of that name. One that is up comes before one that is down, then one whose file can't be used, then
    /// one whose file is gone: a project that Docker runs often has the same name as the folder with its compose file.
    func named(_ name: String) throws -> FoundEnvironment {
        let all = self.all.filter { $0.reference.name == name }
        let ranks: [(FoundEnvironment) -> Bool] = [
            { $0.state == .up }, { $0.state == .down }, { $0.state == .unknown }, { !$0.isGone }, { _ in true },
        ]
        let matching = ranks.lazy.map { all.filter($0) }.first { !$0.isEmpty } ?? []
        guard let first = matching.first else {
            let nearest = Suggestion.nearest(to: name, among: self.all.map(\.reference.name))
            let hint = nearest.map { "Did you mean '\($0)'? (kl env list lists them)" }
            throw Problem(
                .failed,
                "no environment '\(name)' was found. "
                    + (hint
                        ?? "Name its compose file by --file, a project of Docker's by --docker, or a namespace by --context and --namespace.")
            )
        }
        guard matching.count == 1 else {
            let places = matching.map(\.reference.location).joined(separator: ", ")
            throw Problem(
                .failed,
                "several environments are named '\(name)'",
                "Name one by --file, --docker or --docker-network: \(places)"
            )
        }
        return first
    }

    /// The environment of this file. Errors in the file are thrown, warnings are printed.
    static func file(_ path: String, _ output: OutputOptions) throws -> EnvironmentReference {
        // A running environment keeps its name, and can be ended, whatever its file says by now.
        let found = LocalDiscovery.look(at: path)
        if found.state == .up { return found.reference }
        let compose: ComposeFile
        do throws(Problem) {
            compose = try ComposeFile.read(path: path)
        } catch {
            for warning in error.warnings { output.warn(warning) }
            throw error
        }
        for warning in compose.warnings { output.warn(warning) }
        return EnvironmentReference(kind: .local, name: compose.name, location: compose.path)
    }

    /// The error for an environment that kl can't start or end, because Docker or a cluster does.
    private static func othersStart(_ reference: EnvironmentReference, flagOf command: String) -> Problem {
        if reference.kind == .kubernetes {
            return Problem(
                .failed,
                "environment '\(reference.name)' is a cluster's, which starts and ends its services by itself",
                "A local one is named by --file."
            )
        }
        let words = command == "up" ? "up --detach" : "down"
        let project = reference.docker?.project.map { "docker compose --project-name \($0) \(words)" } ?? "docker"
        return Problem(
            .failed,
            "environment '\(reference.name)' is Docker's, which starts and ends it by itself: \(project)",
            "A local one is named by --file."
        )
    }

    /// Refuses a file of another user's, unless this user has named it before.
    static func check(_ path: String, _ workspace: Workspace) throws {
        if try workspace.knownReferences().contains(where: { $0.location == path }) { return }
        if let refusal = LocalDiscovery.refusal(of: path) { throw refusal }
    }

    /// The environment for `up` and `down`: the one of `file`; without that this folder's, or else the connected one.
    static func implied(_ file: String?, _ workspace: Workspace, flagOf command: String) throws -> EnvironmentReference
    {
        if let file { return try Self.file(file, workspace.output) }
        if let here = ComposeFile.files(from: Self.workingFolder).first {
            try Self.check(here, workspace)
            return try Self.file(here, workspace.output)
        }
        if let connected = try workspace.connectedReference() {
            guard connected.kind == .local else { throw Self.othersStart(connected, flagOf: command) }
            return connected
        }
        throw Problem(
            .usage,
            "there is no compose file in this folder",
            "Name one: kl env \(command) --file compose.yaml"
        )
    }
}
