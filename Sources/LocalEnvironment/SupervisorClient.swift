import HostSupport
import InterceptModel
import Libc

/// Sends requests to a local environment's supervisor, and waits for the answers.
struct SupervisorClient {
    let folder: StateFolder

    enum Outcome: Equatable, Sendable {
        case refreshed
        /// No process listens: there is no supervisor.
        case absent
        /// The supervisor doesn't answer: it was stopped (SIGSTOP), or hangs.
        case silent(SilentSupervisor)
        /// The reason, as a clause: "sidecar api-1 hasn't read the keys".
        case failed(String)
    }

    /// † A working supervisor answers within milliseconds, or within a second or two while it starts a thousand services.
    private static let patience = 3_000

    /// What doesn't work in the environment itself. The supervisor is asked, since it may be unable to write that down.
    /// Nil: there is no problem, or no supervisor.
    var problem: String? {
        guard let client = try? JSONLinesClient(path: self.folder.supervisorSocket, within: 1_500),
            (try? client.send(SupervisorRequest.status)) != nil
        else { return nil }
        switch try? client.receive(SupervisorReply.self, within: 1_500) {
        case .message(.state(let state))?: return state.problem
        case .timedOut?: return SilentSupervisor(pid: client.peer).sentence
        default: return nil
        }
    }

    /// Has the supervisor rewrite the accepted keys, and waits until every sidecar has read them.
    func refresh(within milliseconds: Int) -> Outcome {
        do {
            let path = self.folder.supervisorSocket
            guard let client = try JSONLinesClient(path: path, within: Self.patience) else { return .absent }
            // Reading the keys may take a while, so first find out soon whether the supervisor answers at all.
            try client.send(SupervisorRequest.status)
            if case .timedOut = try client.receive(SupervisorReply.self, within: min(milliseconds, Self.patience)) {
                return .silent(SilentSupervisor(pid: client.peer))
            }
            try client.send(SupervisorRequest.refresh)
            let deadline = Steady.milliseconds + Int64(milliseconds)
            while true {
                let rest = Int(max(0, deadline - Steady.milliseconds))
                switch try client.receive(SupervisorReply.self, within: rest) {
                case .message(.refreshed): return .refreshed
                case .message(.failed(let reason)): return .failed(reason)
                case .message: continue
                case .ended: return .failed("it ended the conversation")
                case .timedOut, .interrupted: return .failed("it didn't answer for \(milliseconds / 1_000) s")
                }
            }
        } catch {
            return .failed(Self.reason(error))
        }
    }

    /// Why a conversation failed, as a clause.
    private static func reason(_ error: any Error) -> String {
        (error as? HostError)?.description ?? "its answer can't be read"
    }

    static func problem(_ error: any Error, _ folder: StateFolder?) -> Problem {
        Problem(
            .failed,
            "the environment's supervisor can't be asked: \(Self.reason(error))",
            "Try again; if that doesn't help, look into \(folder?.supervisorLog ?? "its log")."
        )
    }
}

/// A supervisor that runs but doesn't answer. The processes it started go on without it.
struct SilentSupervisor: Equatable, Sendable {
    /// Nil: the kernel doesn't say.
    let pid: Int32?

    /// As a clause.
    var reason: String { "its supervisor\(self.pid.map { " (pid \($0))" } ?? "") doesn't answer" }

    /// What to do, as a sentence.
    var mend: String {
        "End it\(self.pid.map { " with 'kill -9 \($0)'" } ?? ""), then start another, which takes over what runs: kl env up"
    }

    var sentence: String { "\(self.reason). \(self.mend)" }
}

/// Requests to a local environment's supervisor at `supervisor.sock`: one JSON object per line, answered by one or more
/// lines.
public enum SupervisorRequest: Codable, Equatable, Sendable {
    /// Answered by `state`.
    case status
    /// Reads `record.json` again and rewrites `peers`. Answered by `refreshed` once every sidecar has read it.
    case refresh
    /// Ends the environment. Answered by `progress` lines, then `done`.
    case down
}

public enum SupervisorReply: Codable, Equatable, Sendable {
    case state(EnvironmentState)
    case refreshed
    /// A line for people.
    case progress(String)
    case done
    case failed(String)
}
