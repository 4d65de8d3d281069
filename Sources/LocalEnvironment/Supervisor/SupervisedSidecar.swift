import CommandText
import ComposeFiles
import Environments
import HostSupport
import InterceptModel
import Libc
import Logging
import NIOCore
import NIOPosix
import SidecarInterface

/// The sidecar in front of a service. Its listening sockets stay open while it is restarted.
final class SupervisedSidecar {
    private(set) var state: EnvironmentState.SidecarState
    private let service: ComposeService
    private let context: SupervisorContext
    private var process: SupervisedProcess?
    private var sockets: [ListeningSocket] = []
    private var tunnel: ListeningSocket?
    /// The tunnel's last port, which workspaces know: a restarted sidecar listens there again, if possible.
    private var tunnelPort: UInt16 = 0
    /// The last UDP port of its tunnel; 0, any free one, if it couldn't start there.
    private var datagramPort: UInt16 = 0
    private var backoff = Backoff.ofSidecar
    private var timer: Scheduled<Void>?
    private var isEnding = false
    private var ending: GroupEnding?
    private var reload: Reload
    private static let readyWithin: Int64 = 10_000

    init(of service: ComposeService, context: SupervisorContext) {
        self.service = service
        self.context = context
        self.state = EnvironmentState.SidecarState(name: "\(service.name)-1")
        self.reload = Reload()
    }

    var pid: Int32? { self.process?.pid }

    private var role: SupervisorMark.Role { .sidecar(self.state.name) }
    private var metadata: Logger.Metadata { ["sidecar": "\(self.state.name)"] }

    // MARK: Starting

    /// Opens the service's public ports. An adopted sidecar keeps its own sockets until it ends.
    func openPorts() throws(Problem) {
        guard self.sockets.isEmpty, self.tunnel == nil else { return }
        var sockets: [ListeningSocket] = []
        // With redirect, the service itself listens on its ports.
        for port in self.service.ports where self.service.diversion == .listen {
            do throws(HostError) {
                sockets.append(
                    try ListeningSocket(
                        host: port.hostAddress,
                        port: port.published,
                        isUDP: port.transport == .udp
                    )
                )
            } catch {
                throw .port(port, of: self.service.name, error)
            }
        }
        do throws(HostError) {
            // Another process may have taken the previous port.
            self.tunnel =
                if let before = try? ListeningSocket(host: "127.0.0.1", port: self.tunnelPort) { before } else {
                    try ListeningSocket(host: "127.0.0.1", port: 0)
                }
        } catch {
            throw Problem(error)
        }
        self.sockets = sockets
    }

    func start() {
        guard !self.isEnding, self.process == nil else { return }
        do throws(Problem) {
            try self.openPorts()
            try self.spawn()
        } catch {
            self.context.log.error("\(error)", metadata: self.metadata)
            self.startAgain(because: error.description, afterLifeOf: 0)
        }
        self.context.onChange(true)
    }

    private func spawn() throws(Problem) {
        guard let tunnel = self.tunnel else { return }
        let report: Pipe
        do throws(HostError) { report = try Pipe() } catch { throw Problem(error) }
        do throws(HostError) {
            defer { close(report.writer) }
            let log = try LogFiles.open(
                self.context.folder.log(ofSidecar: self.state.name),
                mode: self.context.folder.fileMode
            )
            defer { close(log) }
            // LISTEN_PID must be the sidecar's own process id, which is known only once the process exists; so a shell sets
            // it, then execs.
            let script = "LISTEN_PID=$$; export LISTEN_PID; exec \"$@\""
            var spawn = Spawn("/bin/sh", ["-c", script, "sh", self.context.sidecar] + self.arguments(tunnel).words)
            spawn.environment = self.environment
            spawn.descriptors = [nil, report.writer, log, tunnel.descriptor] + self.sockets.map(\.descriptor)
            self.watch(SupervisedProcess(child: try spawn.start()))
        } catch {
            close(report.reader)
            throw Problem(error)
        }
        self.state.state = .starting
        self.state.reason = nil
        self.reload.started(generation: self.context.peersGeneration)
        self.readReadyLine(from: report.reader, of: self.process?.pid)
        self.timer = self.context.after(milliseconds: Self.readyWithin) { self.isLate() }
        self.context.log.info("sidecar started", metadata: self.metadata)
    }

    private func arguments(_ tunnel: ListeningSocket) -> SidecarArguments {
        var known: Set<ServicePort> = []
        let ports = self.service.ports.filter { known.insert($0.publishedPort).inserted }
        var arguments: SidecarArguments
        let tunnel = Endpoint(host: "127.0.0.1", port: tunnel.port)
        switch self.service.diversion {
        case .listen:
            arguments = SidecarArguments(
                listenTCP: tunnel,
                divert: .listenOnAll(host: "127.0.0.1"),
                servicePorts: ports.map { ServedPort($0.publishedPort, onThisHostAt: $0.target) }
            )
        case .redirect(let netns):
            arguments = SidecarArguments(
                listenTCP: tunnel,
                divert: .redirect,
                servicePorts: ports.map { ServedPort($0.publishedPort, onThisHostAt: $0.published) }
            )
            arguments.netns = netns
            // On this machine itself all clients come by the loopback interface.
            if netns == nil { arguments.loopback = .workspace }
        }
        arguments.listenUDP = Endpoint(host: "127.0.0.1", port: self.datagramPort)
        arguments.peersFile = self.context.folder.peers
        // The record, not the sidecar, decides which workspace holds the service.
        arguments.allowsTakeover = true
        arguments.allowsRefuse = true
        return arguments
    }

    private var environment: [String: String] {
        var result = self.context.environment(for: self.role)
        result["LISTEN_FDS"] = "\(1 + self.sockets.count)"
        result["LISTEN_FDNAMES"] = (["tunnel"] + self.sockets.map { "\($0.port)" }).joined(separator: ":")
        result["NOTIFY_SOCKET"] = self.context.notifications?.name
        return result
    }

    /// Takes over a sidecar that an earlier supervisor has started and whose location is known; false if it no longer
    /// lives.
    func adopt(_ state: EnvironmentState.SidecarState) -> Bool {
        guard let identity = state.process, let location = state.location, identity.isAlive else { return false }
        // Another user may have written the state file, and the name becomes part of paths: keep our own.
        let name = self.state.name
        self.state = state
        self.state.name = name
        self.state.state = .ready
        self.state.reason = nil
        self.tunnelPort = (try? Flags.endpoint(location.tcp))?.port ?? 0
        self.datagramPort = Self.port(of: location.udp)
        self.watch(SupervisedProcess(adopted: identity))
        return true
    }

    private func watch(_ process: SupervisedProcess) {
        self.process = process
        self.state.process = process.identity
        self.context.watchEnd(of: process) { [weak self] in self?.ended($0) }
    }

    // MARK: Ready

    private func readReadyLine(from descriptor: CInt, of pid: Int32?) {
        FirstLine.read(from: descriptor, on: self.context.eventLoop) { [weak self] line in
            guard let self, self.process?.pid == pid, self.state.state == .starting else { return }
            guard let report = SidecarReport(line: line), let tcp = report.tcp else { return }
            self.isReady(report, tcp: tcp)
        }
    }

    private func isReady(_ report: SidecarReport, tcp: String) {
        self.timer?.cancel()
        self.state.state = .ready
        self.state.reason = nil
        self.state.location = SidecarLocation(
            name: self.state.name,
            publicKey: report.publicKey,
            tcp: tcp,
            udp: report.udp,
            listens: self.service.places
        )
        self.state.location?.originalSees = self.withAddress(report.originalSees)
        self.tunnelPort = self.tunnel?.port ?? 0
        self.datagramPort = Self.port(of: report.udp)
        self.context.log.info("sidecar is ready", metadata: self.metadata)
        if self.reload.ready(wanted: self.context.peersGeneration) { self.askToReload() }
        self.context.onChange(true)
    }

    private func withAddress(_ seen: SeenAddress?) -> SeenAddress? {
        var seen = seen
        if seen?.whose == .sidecar { seen?.address = self.service.sidecarsAddress }
        return seen
    }

    private static func port(of place: String?) -> UInt16 {
        place.flatMap { try? Flags.endpoint($0) }?.port ?? 0
    }

    private func isLate() {
        guard self.state.state == .starting, let process = self.process else { return }
        self.context.log.error("sidecar isn't ready after 10 s", metadata: self.metadata)
        process.send(SIGKILL)
    }

    // MARK: Reports

    func received(_ fields: [String: String]) {
        if let notice = DivertingNotice(fields) {
            let before = self.state
            self.state.divertingTo = notice.divertingTo
            self.state.open = notice.open
            self.state.total = notice.total
            self.state.passed = notice.passed
            self.state.holders = notice.holders
            let seen = self.withAddress(notice.originalSees) ?? before.location?.originalSees
            self.state.location?.originalSees = seen
            let isUrgent = self.state.served != before.served || seen != before.location?.originalSees
            if self.state != before { self.context.onChange(isUrgent) }
        }
        if fields["RELOADING"] == "1" {
            self.reload.begins(at: fields["MONOTONIC_USEC"].flatMap { UInt64($0) } ?? 0)
        } else if fields["READY"] == "1" {
            self.reload.done()
        }
    }

    // MARK: Keys

    /// Whether it has read this generation of the keys. A sidecar that doesn't run reads them when it starts.
    func hasRead(_ generation: Int) -> Bool { self.process == nil || self.reload.generation >= generation }

    func readKeysAgain() {
        guard self.state.state == .ready, self.reload.ready(wanted: self.context.peersGeneration) else { return }
        self.askToReload()
    }

    /// Asks once more, since the sidecar's answer may have been lost.
    func isAskedAgain() {
        guard self.state.state == .ready else { return }
        self.askToReload()
    }

    private func askToReload() {
        self.reload.asked(generation: self.context.peersGeneration, at: Steady.microseconds)
        self.process?.send(SIGHUP)
    }

    // MARK: Ending

    private func ended(_ end: ProcessEnd) {
        guard let process = self.process else { return }
        self.process = nil
        self.timer?.cancel()
        if self.state.state == .starting { self.datagramPort = 0 }
        guard !self.isEnding else { return }
        self.context.log.warning("sidecar \(end.reason)", metadata: self.metadata)
        self.state.process = nil
        self.state.location = nil
        self.state.divertingTo = nil
        self.state.holders = nil
        self.state.open = 0
        self.startAgain(because: end.reason, afterLifeOf: process.life)
        self.context.onChange(true)
    }

    private func startAgain(because reason: String, afterLifeOf life: Int64) {
        self.state.state = .restarting
        self.state.reason = reason
        let delay = self.backoff.next(afterLifeOf: life)
        guard delay > 0 else { return self.start() }
        self.timer = self.context.after(milliseconds: delay) { self.start() }
    }

    /// Takes no more clients; open connections may go on.
    func stop() {
        self.isEnding = true
        self.timer?.cancel()
        self.sockets = []
        self.tunnel = nil
        self.process?.send(SIGTERM)
    }

    /// Called after `stop` and after the service's end. Open connections get 300 ms more.
    func end(onDone: @escaping () -> Void) { self.end(within: 300, onDone: onDone) }

    private func end(within milliseconds: Int64, onDone: @escaping () -> Void) {
        guard let process = self.process else { return onDone() }
        guard milliseconds <= 0 else {
            self.context.after(milliseconds: 20) { self.end(within: milliseconds - 20, onDone: onDone) }
            return
        }
        // A second SIGTERM makes the sidecar end at once.
        self.ending = GroupEnding(process, grace: .seconds(1), on: self.context.eventLoop, onDone: onDone)
    }
}

extension ComposeService {
    /// The addresses at which clients reach it, as people write them.
    fileprivate var places: [String] {
        guard case .redirect(let netns?) = self.diversion else {
            return self.ports.map { "\(Endpoint(host: $0.hostAddress, port: $0.published))\($0.transport.suffix)" }
        }
        return self.ports.map { "\(netns):\($0.publishedPort)" }
    }

    /// The address from which its sidecar connects to it: behind a redirect, the one that the client called.
    fileprivate var sidecarsAddress: String? {
        switch self.diversion {
        case .listen: return "127.0.0.1"
        case .redirect(netns: nil):
            let hosts = Set(self.ports.map(\.hostAddress))
            guard let host = hosts.first, hosts.count == 1, !["0.0.0.0", "::"].contains(host) else { return nil }
            return host
        case .redirect: return nil
        }
    }
}

extension EnvironmentState.SidecarState {
    /// Which workspaces get connections, or copies: a change of that is written at once, a change of counts a little later.
    fileprivate var served: Set<String> {
        Set((self.holders ?? []).map { "\($0.key) \($0.kind) \($0.isServed)" } + [self.divertingTo ?? ""])
    }
}
