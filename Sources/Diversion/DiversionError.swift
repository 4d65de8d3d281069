/// The kernel, or whoever started this, stands in the way: what failed, why, and what to do.
public struct DiversionError: Error, Hashable, CustomStringConvertible, Sendable {
    public let description: String

    init(_ description: String) { self.description = description }
}
