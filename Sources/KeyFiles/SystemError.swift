#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// What the kernel said no with.
public struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
    public let code: Int32

    public init(code: Int32) {
        self.code = code
    }

    /// Of the call that has just failed, in this thread.
    static var last: SystemError { SystemError(code: errno) }

    public var description: String {
        String(cString: strerror(code))
    }
}
