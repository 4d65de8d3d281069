import FoundationEssentials

/// One line of `docker events`. Engines have words of their own for the same thing, podman's `died` and `remove` are Docker's
/// `die` and `destroy`: so nothing is asked of the engine's filters, and only what is known to change nothing is left out.
struct DockerEvent: Decodable, Equatable, Sendable {
    struct Actor: Decodable, Equatable, Sendable {
        var ID: String?
        var Attributes: [String: String]?
    }

    var `Type`: String?
    var Action: String?
    var Actor: Actor?

    /// Nil: it can't be understood, and may mean anything.
    init?(line: String) {
        guard let event = try? JSONDecoder().decode(Self.self, from: Data(line.utf8)) else { return nil }
        self = event
    }

    /// What runs beside a container's own program, all the time where there are health checks; what is read or written from
    /// outside; and how the checks go, which no sidecar depends on.
    private static let idle: Set<String> = [
        "exec_create", "exec_start", "exec_die", "exec_detach", "exec", "exec_died", "health_status", "attach",
        "detach", "top", "resize", "export", "copy", "commit", "archive-path", "extract-to-dir", "checkpoint",
        "mount", "unmount", "sync", "prune",
    ]

    /// Without what may follow it: `exec_start: true`.
    private var word: Substring { (self.Action ?? "").prefix { $0 != ":" } }

    private var isOfNetwork: Bool { self.Type == "network" }

    /// Whether it may change what an environment is told to be.
    var mayMatter: Bool {
        if self.isOfNetwork { return ["connect", "disconnect"].contains(self.word) }
        guard self.Type == nil || self.Type == "container" else { return false }
        return !Self.idle.contains(String(self.word))
    }

    /// The id of the container that it tells of.
    var container: String? {
        // Docker names the network as what acts, podman the container.
        self.isOfNetwork ? self.Actor?.Attributes?["container"] ?? self.Actor?.ID : self.Actor?.ID
    }

    func attribute(_ name: String) -> String? { self.Actor?.Attributes?[name] }

    /// Which signal a container was sent; nil: none, or the engine doesn't say which.
    var signal: String? { self.word == "kill" && !self.isOfNetwork ? self.attribute("signal") : nil }

    /// The container's program has ended.
    var isDeath: Bool { !self.isOfNetwork && ["die", "died"].contains(self.word) }

    /// It has begun anew.
    var isStart: Bool { !self.isOfNetwork && self.word == "start" }

    /// The container was told to end, and still runs.
    ///
    /// `restart` is the last word of a restart with Docker, and podman's first one.
    func asksToEnd(_ container: DockerContainer, ofPodman: Bool) -> Bool {
        if ofPodman, !self.isOfNetwork, self.word == "restart" { return true }
        return self.signal.map { container.ends(by: $0) } ?? false
    }
}
