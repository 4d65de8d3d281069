/// An environment that can be connected to, or the reason why not.
public struct FoundEnvironment: Codable, Equatable, Sendable {
    public enum State: String, Codable, Sendable {
        case up
        case down
        /// Its compose file can't be used.
        case broken
    }

    public var reference: EnvironmentReference
    public var state: State
    /// Why it is broken, as a sentence.
    public var reason: String?
    /// It was used before, and its file no longer exists.
    public var isGone: Bool

    public init(_ reference: EnvironmentReference, _ state: State, reason: String? = nil, isGone: Bool = false) {
        self.reference = reference
        self.state = state
        self.reason = reason
        self.isGone = isGone
    }
}
