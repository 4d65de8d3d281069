import InterceptModel

/// Diversion isn't possible because of the kernel, the way the sidecar was started, or another sidecar: what failed, why, and
/// what to do.
public struct DiversionError: Error, Hashable, CustomStringConvertible, Sendable {
    public let description: String
    /// Another sidecar in this network namespace diverts a port that is asked for.
    public private(set) var isTaken = false
    /// The workspace for which that sidecar diverts the port, if it is known.
    public private(set) var holder: String?

    init(_ description: String) { self.description = description }

    static func taken(_ port: ServicePort, by holder: String?) -> DiversionError {
        let whose = holder.map { ", for \($0)" } ?? ""
        var error = DiversionError("another sidecar in this network diverts port \(port)\(whose)")
        error.isTaken = true
        error.holder = holder
        return error
    }
}
