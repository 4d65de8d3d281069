import Libc

/// How a process ended.
public enum ProcessEnd: Equatable, Sendable {
    case exited(Int32)
    case killed(by: Int32)
    /// The process wasn't this one's child, so the kernel doesn't tell.
    case unknown

    /// wait(2)'s status word.
    public init(status: Int32) {
        let signal = status & 0x7F
        self = signal == 0 ? .exited((status >> 8) & 0xFF) : .killed(by: signal)
    }

    public var isSuccess: Bool { self == .exited(0) }

    /// As a clause, for people.
    public var reason: String {
        switch self {
        case .exited(let code): "exited with code \(code)"
        case .killed(let signal): "was ended by signal \(signal)" + (Self.names[signal].map { " (\($0))" } ?? "")
        case .unknown: "ended"
        }
    }

    private static let names = [
        SIGHUP: "SIGHUP", SIGINT: "SIGINT", SIGQUIT: "SIGQUIT", SIGILL: "SIGILL", SIGABRT: "SIGABRT", SIGBUS: "SIGBUS",
        SIGFPE: "SIGFPE", SIGKILL: "SIGKILL", SIGSEGV: "SIGSEGV", SIGPIPE: "SIGPIPE", SIGTERM: "SIGTERM",
    ]
}
