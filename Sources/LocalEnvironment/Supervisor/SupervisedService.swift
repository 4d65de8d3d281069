import ComposeFiles
import Environments
import HostSupport
import Libc
import Logging
import NIOCore

/// A service of the compose file: its process, which is restarted when it ends, and the sidecar in front of it.
final class SupervisedService {
    let service: ComposeService
    let sidecar: SupervisedSidecar?
    private(set) var life: ServiceLife
    private let context: SupervisorContext
    private var process: SupervisedProcess?
    private var probe: PortProbe?
    private var restart: Scheduled<Void>?
    private var isEnding = false
    private var ending: GroupEnding?
    /// Processes that the last one left in its group.
    private var remains: [ProcessIdentity] = []

    init(_ service: ComposeService, context: SupervisorContext) {
        self.service = service
        self.context = context
        self.life = ServiceLife(policy: service.restart)
        self.sidecar = service.ports.isEmpty ? nil : SupervisedSidecar(of: service, context: context)
    }

    /// The service's network namespace, if it isn't this machine's own.
    private var namespace: String? {
        if case .redirect(let netns) = self.service.diversion { netns } else { nil }
    }

    private var role: SupervisorMark.Role { .service(self.service.name) }

    /// The service's entry in `state.json`.
    var state: EnvironmentState.ServiceState {
        var state = EnvironmentState.ServiceState(
            service: Service(
                name: self.service.name,
                state: self.life.state,
                reason: self.life.reason,
                ports: self.service.ports.map {
                    Service.Port(
                        published: $0.published,
                        target: $0.target,
                        name: $0.name,
                        transport: $0.transport
                    )
                }
            ),
            process: self.process?.identity,
            restarts: self.life.restarts,
            sidecars: self.sidecar.map { [$0.state] } ?? []
        )
        state.stranger = self.life.stranger
        return state
    }

    // MARK: Starting

    func waits(for other: String) {
        let before = self.life
        self.life.waits(for: other)
        if self.life != before { self.context.onChange(true) }
    }

    /// The ports on which the service must be listening. UDP ports are left out: whether a process listens there can't be
    /// seen from outside.
    private var connectedPorts: [UInt16] {
        self.service.ports.filter { $0.transport == .tcp }.map(\.target)
    }

    func start() {
        guard !self.isEnding, self.process == nil else { return }
        for process in self.remains { process.send(SIGKILL) }
        self.remains = []
        let before = self.namespace == nil ? PortStranger.listening(on: self.connectedPorts) : [:]
        switch self.spawn() {
        case .success(let pid):
            self.context.log.info("service started", metadata: ["service": "\(self.service.name)", "pid": "\(pid)"])
            self.watch(SupervisedProcess(child: pid), before: before)
        case .failure(let problem): self.act(self.life.couldNotStart(problem.reason))
        }
        self.context.onChange(true)
    }

    private struct Problem: Error { var reason: String }

    private func spawn() -> Result<Int32, Problem> {
        var environment = self.context.environment(for: self.role)
        environment.merge(self.service.environment) { $1 }
        let folder = self.service.workingDirectory
        var status = stat()
        guard stat(folder, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            return .failure(Problem(reason: "its working directory \(folder) doesn't exist"))
        }
        guard let name = self.service.command.first,
            let program = Spawn.find(name, path: environment["PATH"], in: folder)
        else {
            return .failure(Problem(reason: "its command '\(self.service.command.first ?? "")' isn't found"))
        }
        do throws(HostError) {
            let log = try LogFiles.open(
                self.context.folder.log(ofService: self.service.name),
                mode: self.context.folder.fileMode
            )
            defer { close(log) }
            var spawn = Spawn(program, Array(self.service.command.dropFirst()), environment: environment)
            spawn.workingDirectory = folder
            spawn.descriptors = [nil, log, log]
            return .success(try spawn.start())
        } catch {
            return .failure(Problem(reason: error.description))
        }
    }

    /// Takes over a process that an earlier supervisor has started; false if it no longer lives.
    func adopt(_ state: EnvironmentState.ServiceState) -> Bool {
        guard let identity = state.process, identity.isAlive else { return false }
        self.life.goesOn(restarts: state.restarts)
        self.watch(SupervisedProcess(adopted: identity), before: [:])
        return true
    }

    private func watch(_ process: SupervisedProcess, before: [UInt16: Set<String>]) {
        self.process = process
        self.life.started(awaiting: self.connectedPorts)
        let stranger = PortStranger(before: before, group: process.pid, mark: self.context.mark.value(for: self.role))
        let elsewhere = self.namespace.map { NamespacePorts(path: $0, group: process.pid) }
        let probe = PortProbe(
            ports: self.connectedPorts,
            on: self.context.eventLoop,
            listens: elsewhere.map { ports in { ports.isListened(on: $0) } },
            stranger: { elsewhere == nil ? stranger.find(on: $0) : nil },
            onChange: { [weak self] in self?.listens(allBut: $0, heldBy: $1) }
        )
        self.probe = probe
        probe.start()
        self.context.watchEnd(of: process) { [weak self] in self?.ended($0) }
    }

    private func listens(allBut lacking: [UInt16], heldBy stranger: String?) {
        let before = self.life
        self.life.listens(allBut: lacking, heldBy: stranger)
        guard self.life != before else { return }
        if self.life.phase == .running {
            self.context.log.info("service runs", metadata: ["service": "\(self.service.name)"])
        }
        self.context.onChange(true)
    }

    // MARK: Ending

    private func ended(_ end: ProcessEnd) {
        guard let process = self.process else { return }
        self.process = nil
        self.probe = nil
        guard !self.isEnding else { return }
        self.remains = RunningProcesses.inGroup(process.pid)
        for process in self.remains { process.send(SIGTERM) }
        self.context.log.warning("service \(end.reason)", metadata: ["service": "\(self.service.name)"])
        self.act(self.life.ended(end, afterLifeOf: process.life))
        self.context.onChange(true)
    }

    private func act(_ action: ServiceLife.Action) {
        guard case .restart(let delay) = action, !self.isEnding else { return }
        self.restart = self.context.after(milliseconds: delay) { self.start() }
    }

    /// Ends the service and its sidecar; from now on new clients are refused.
    func end(onDone: @escaping () -> Void) {
        self.isEnding = true
        self.restart?.cancel()
        self.probe = nil
        self.life.isEnding()
        self.sidecar?.stop()
        for process in self.remains { process.send(SIGKILL) }
        let finish = { [self] in
            // The service has ended, so open connections wait for nothing.
            guard let sidecar = self.sidecar else { return onDone() }
            sidecar.end(onDone: onDone)
        }
        guard let process = self.process else { return finish() }
        let grace = TimeAmount.milliseconds(Int64(min(self.service.stopGraceSeconds, 86_400) * 1_000))
        self.ending = GroupEnding(process, grace: grace, on: self.context.eventLoop, onDone: finish)
        self.context.onChange(true)
    }
}
