import HostSupport

/// Asks a local environment's supervisor, and waits for its answer.
struct SupervisorClient {
    let folder: StateFolder

    enum Outcome: Equatable, Sendable {
        case refreshed
        /// Nobody listens: there is no supervisor.
        case absent
        /// A clause: "it didn't answer for 10 s".
        case failed(String)
    }

    /// What of the environment itself doesn't work, as only its supervisor knows where it can't write that down. Nil: nothing,
    /// or nobody answers.
    var problem: String? {
        guard let client = try? JSONLinesClient(path: self.folder.supervisorSocket),
            (try? client.send(SupervisorRequest.status)) != nil,
            case .message(.state(let state))? = try? client.receive(SupervisorReply.self, within: 2_000)
        else { return nil }
        return state.problem
    }

    /// Has the accepted keys written anew, and waits until every sidecar has read them.
    func refresh(within milliseconds: Int) -> Outcome {
        do {
            guard let client = try JSONLinesClient(path: self.folder.supervisorSocket) else { return .absent }
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
        } catch let error as HostError {
            return .failed(error.description)
        } catch {
            return .failed("its answer can't be read")
        }
    }
}
