import HostSupport
import Logging
import NIOCore

/// What a supervisor's parts share. Used on one event loop only, as they are.
final class SupervisorContext {
    let eventLoop: any EventLoop
    let folder: StateFolder
    let mark: SupervisorMark
    let watch: ProcessWatch
    let log: Logger
    /// The path of the sidecar's program.
    let sidecar: String
    /// The environment of the caller of `kl env up`, without variables that are meant for one process only.
    let environment: [String: String]
    /// The socket to which sidecars report; nil if it couldn't be opened.
    var notifications: NotificationSocket?
    /// The generation of `peers` on the disk.
    var peersGeneration = 0
    /// Called when something that is part of `state.json` has changed.
    var onChange: (_ isUrgent: Bool) -> Void = { _ in }

    init(
        eventLoop: any EventLoop,
        folder: StateFolder,
        sidecar: String,
        environment: [String: String],
        log: Logger
    ) {
        self.eventLoop = eventLoop
        self.folder = folder
        self.mark = SupervisorMark(folder: folder.path)
        self.watch = ProcessWatch(eventLoop: eventLoop)
        self.sidecar = sidecar
        self.environment = Self.inheritable(environment)
        self.log = log
    }

    static func inheritable(_ environment: [String: String]) -> [String: String] {
        let own = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", SupervisorMark.variable]
        return environment.filter { !own.contains($0.key) }
    }

    func environment(for role: SupervisorMark.Role) -> [String: String] {
        var result = self.environment
        result[SupervisorMark.variable] = self.mark.value(for: role)
        return result
    }

    @discardableResult
    func after(milliseconds: Int64, _ body: @escaping () -> Void) -> Scheduled<Void> {
        self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds), body)
    }

    func watchEnd(of process: SupervisedProcess, onEnd: @escaping (ProcessEnd) -> Void) {
        if process.isChild {
            self.watch.watch(child: process.pid, onEnd: onEnd)
        } else if let identity = process.identity {
            self.watch.watch(adopted: identity, onEnd: onEnd)
        }
    }
}
