/// Diversion isn't possible because of the kernel or the way the sidecar was started: what failed, why, and what to do.
public struct DiversionError: Error, Hashable, CustomStringConvertible, Sendable {
    public let description: String

    init(_ description: String) { self.description = description }
}
