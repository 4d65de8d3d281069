/// The workspace's first byte on an intercepted connection's stream.
public enum Answer: UInt8, Sendable, CaseIterable {
    case connected = 0
    case refused = 1
    case unmapped = 2
    case timedOut = 3
    case other = 4
}
