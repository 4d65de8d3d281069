import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Logging

extension EnvironmentState {
    /// † A thousand services with their sidecars take about 1 MiB.
    private static let maxBytes = 16 * 1_048_576

    /// Nil: the file doesn't exist, so the environment isn't up.
    public static func read(from folder: StateFolder) throws(Problem) -> EnvironmentState? {
        let bytes: [UInt8]?
        do throws(HostError) { bytes = try SmallFile.read(folder.state, atMost: Self.maxBytes) } catch {
            throw Problem(error)
        }
        guard let bytes else { return nil }
        struct Version: Decodable { var version: Int }
        let data = Data(bytes)
        if let version = try? JSONDecoder().decode(Version.self, from: data), version.version != Self.currentVersion {
            throw Problem(
                .failed,
                "\(folder.state) was written by another version of kl",
                "Use that version to end the environment" + " (kl env down), then try again."
            )
        }
        guard let state = try? JSONDecoder().decode(EnvironmentState.self, from: data) else {
            throw Problem(
                .failed,
                "\(folder.state) isn't as kl wrote it",
                "End the processes that run from it, remove the file, then bring the"
                    + " environment up again (kl env up)."
            )
        }
        return state
    }

    /// Replaces the whole file.
    public func write(to folder: StateFolder) throws(Problem) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(self) else {
            throw Problem(.failed, "\(folder.state) can't be written", "Look at what is in it.")
        }
        do throws(HostError) { try SmallFile.replace(folder.state, with: Array(data), mode: folder.fileMode) } catch {
            throw Problem(error)
        }
    }

    /// Whether any process of it lives: the supervisor, a service, a sidecar.
    public var isAlive: Bool {
        self.supervisor.isAlive || self.services.contains { $0.isAlive }
    }
}

extension EnvironmentState.ServiceState {
    /// Whether its process or one of its sidecars lives.
    public var isAlive: Bool {
        self.process?.isAlive == true || self.sidecars.contains { $0.process?.isAlive == true }
    }
}

/// Writes `state.json`, and keeps the failure if that doesn't work: a full disk doesn't end services.
struct StateWriter {
    private let folder: StateFolder
    private let log: Logger
    /// What is wrong, as a clause; nil while it works.
    private(set) var problem: String?

    init(folder: StateFolder, log: Logger) {
        self.folder = folder
        self.log = log
    }

    mutating func write(_ state: EnvironmentState) {
        var state = state
        // If this write succeeds, the previous problem no longer exists.
        if state.problem == self.problem { state.problem = nil }
        do throws(Problem) {
            try state.write(to: self.folder)
            if self.problem != nil { self.log.notice("the state can be written again") }
            self.problem = nil
        } catch {
            let problem = "the state isn't up to date: \(error)"
            if self.problem != problem { self.log.error("\(problem)") }
            self.problem = problem
        }
    }
}
