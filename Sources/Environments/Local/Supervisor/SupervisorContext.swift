import HostSupport
import Logging
import NIOCore

/// What a supervisor's parts share. It lives on one event loop, as they do.
final class SupervisorContext {
    let eventLoop: any EventLoop
    let folder: StateFolder
    let mark: SupervisorMark
    let watch: ProcessWatch
    let log: Logger
    /// The sidecar's program.
    let sidecar: String
    /// What the caller of `kl env up` has, without what is meant for one process alone.
    let environment: [String: String]
    /// Where sidecars tell how they are; nil where that isn't possible.
    var notifications: NotificationSocket?
    /// Which version of `peers` is on the disk.
    var peersGeneration = 0
    /// Called when something that `state.json` tells has changed.
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
