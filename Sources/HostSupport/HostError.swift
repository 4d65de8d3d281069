#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// A call to the system failed: what was wanted, of what, and the system's own reason.
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

    /// What is there isn't what a program reads or writes.
    public static func notAFile(_ path: String, _ what: String) -> HostError {
        HostError(description: "\(path) \(what): it isn't a file", code: ENOTSUP)
    }

    /// A program or a socket isn't there, in a sentence of its own.
    static func notFound(_ what: String) -> HostError { HostError(description: what, code: ENOENT) }

    /// - Parameter what: "can't be written", said of the path.
    static func last(_ path: String, _ what: String) -> HostError { HostError("\(path) \(what)", code: errno) }
}
