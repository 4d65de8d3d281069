import Libc

/// A failed system call: what was attempted, on what, and the system's reason.
public struct HostError: Error, Equatable, CustomStringConvertible, Sendable {
    public let description: String
    public let code: CInt

    public init(_ what: String, code: CInt) {
        self.code = code
        let reason = strerror(code).map { String(cString: $0) } ?? "error \(code)"
        self.description = "\(what): \(reason.prefix(1).lowercased() + reason.dropFirst())"
    }

    private init(description: String, code: CInt) {
        self.description = description
        self.code = code
    }

    /// The path names something other than a file.
    public static func notAFile(_ path: String, _ what: String) -> HostError {
        HostError(description: "\(path) \(what): it isn't a file", code: ENOTSUP)
    }

    /// A program or a socket isn't there; `what` is a clause of its own.
    static func notFound(_ what: String) -> HostError { HostError(description: what, code: ENOENT) }

    /// - Parameter what: such as "can't be written", said of the path.
    static func last(_ path: String, _ what: String) -> HostError { HostError("\(path) \(what)", code: errno) }
}
