import Libc

/// An error code of a failed system call.
public struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
    public let code: Int32

    public init(code: Int32) {
        self.code = code
    }

    /// The error of this thread's last call.
    static var last: SystemError { SystemError(code: errno) }

    public var description: String {
        String(cString: strerror(code))
    }
}
