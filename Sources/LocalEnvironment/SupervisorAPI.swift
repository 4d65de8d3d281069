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
