import FoundationEssentials
import Libc

/// One line of `docker events`. Engines name the same event differently (podman's `died` and `remove` are Docker's `die`
/// and `destroy`), so the engine's own filters aren't used, and only events known to change nothing are ignored.
struct DockerEvent: Decodable, Equatable, Sendable {
    struct Actor: Decodable, Equatable, Sendable {
        var ID: String?
        var Attributes: [String: String]?
    }

    var `Type`: String?
    var Action: String?
    var Actor: Actor?

    /// Nil: the line can't be parsed, and may mean anything.
    init?(line: String) {
        guard let event = try? JSONDecoder().decode(Self.self, from: Data(line.utf8)) else { return nil }
        self = event
    }

    /// Events that change nothing here: programs run inside a container, which health checks do all the time; reading or
    /// writing from outside; and health results, on which no sidecar depends.
    private static let idle: Set<String> = [
        "exec_create", "exec_start", "exec_die", "exec_detach", "exec", "exec_died", "health_status", "attach",
        "detach", "top", "resize", "export", "copy", "commit", "archive-path", "extract-to-dir", "checkpoint",
        "mount", "unmount", "sync", "prune",
    ]

    /// The action without a suffix, as in `exec_start: true`.
    private var word: Substring { (self.Action ?? "").prefix { $0 != ":" } }

    private var isOfNetwork: Bool { self.Type == "network" }

    /// Whether the event may change what the environment reports.
    var mayMatter: Bool {
        if self.isOfNetwork { return ["connect", "disconnect"].contains(self.word) }
        guard self.Type == nil || self.Type == "container" else { return false }
        return !Self.idle.contains(String(self.word))
    }

    /// The id of the container that the event is about.
    var container: String? {
        // In a network event, Docker names the network as the actor, podman the container.
        self.isOfNetwork ? self.Actor?.Attributes?["container"] ?? self.Actor?.ID : self.Actor?.ID
    }

    func attribute(_ name: String) -> String? { self.Actor?.Attributes?[name] }

    /// The signal that a container was sent; nil: none, or the engine doesn't say which.
    var signal: String? { self.word == "kill" && !self.isOfNetwork ? self.attribute("signal") : nil }

    /// The container's program has ended.
    var isDeath: Bool { !self.isOfNetwork && ["die", "died"].contains(self.word) }

    /// The container's program has been started.
    var isStart: Bool { !self.isOfNetwork && self.word == "start" }

    /// Whether the container was asked to end and still runs.
    ///
    /// Docker sends `restart` at the end of a restart, podman at its beginning.
    func asksToEnd(_ container: DockerContainer, ofPodman: Bool) -> Bool {
        if ofPodman, !self.isOfNetwork, self.word == "restart" { return true }
        return self.signal.map { container.ends(by: $0) } ?? false
    }
}

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
