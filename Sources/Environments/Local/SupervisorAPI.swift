/// What is asked of a local environment's supervisor at `supervisor.sock`: one JSON object on a line, answered by one or more.
public enum SupervisorRequest: Codable, Equatable, Sendable {
    /// Answered by `state`.
    case status
    /// Reads `record.json` again and writes `peers` anew. Answered by `refreshed` when every sidecar has read them.
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
