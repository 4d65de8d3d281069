import Libc

/// A signal as engines write it: `15`, `SIGTERM`, `TERM`, `RTMIN+3`.
enum StopSignal {
    private static let numbers: [String: CInt] = [
        "HUP": SIGHUP, "INT": SIGINT, "QUIT": SIGQUIT, "ABRT": SIGABRT, "KILL": SIGKILL, "USR1": SIGUSR1,
        "USR2": SIGUSR2, "PIPE": SIGPIPE, "ALRM": SIGALRM, "TERM": SIGTERM, "CONT": SIGCONT, "STOP": SIGSTOP,
        "WINCH": SIGWINCH, "PWR": 30,
        // As the C library of most images counts: it keeps the kernel's first two for itself.
        "RTMIN": 34,
    ]

    static func number(_ text: String) -> CInt? {
        let upper = text.uppercased()
        let name = upper.hasPrefix("SIG") ? upper.dropFirst(3) : upper[...]
        if let number = CInt(name) { return (1...64).contains(number) ? number : nil }
        if let number = Self.numbers[String(name)] { return number }
        guard name.hasPrefix("RTMIN+"), let more = CInt(name.dropFirst(6)), (0...30).contains(more) else { return nil }
        return 34 + more
    }
}
