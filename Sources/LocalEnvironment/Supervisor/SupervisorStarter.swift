import ComposeFiles
import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Libc

/// Brings a local environment up: starts its supervisor as a process that outlives this one, and waits until it is ready.
public struct SupervisorStarter: Sendable {
    /// The compose file's absolute path.
    public var file: String
    /// The program that has the command `supervise --file FILE`, and its arguments.
    var executable = Spawn.ownExecutable
    var arguments: [String]
    /// Long enough for a supervisor that is just ending, whose services have their grace period: the new one waits for it.
    var patienceMilliseconds: Int64 = 90_000
    /// How long to wait for services to run before their state is returned as it is.
    var settlingMilliseconds: Int64 = 30_000

    public init(file: String) {
        self.file = ComposeFile.absolutePath(of: file)
        self.arguments = ["supervise", "--file", self.file]
    }

    /// Returns once the environment's ports are open and its services are being started, or were already.
    public func start() throws(Problem) {
        let folder = try StateFolder.make(besideFile: self.file)
        do {
            let log = try LogFiles.open(folder.supervisorLog, mode: folder.fileMode)
            defer { close(log) }
            let said = try Pipe()
            defer { close(said.reader) }
            var spawn = Spawn(self.executable, self.arguments)
            spawn.environment = SupervisorContext.inheritable(spawn.environment)
            spawn.descriptors = [nil, log, log, said.writer]
            let started = Result { try spawn.start() }
            // From here on only the supervisor has the write end, so its end closes the pipe.
            close(said.writer)
            let pid = try started.get()
            let report = self.report(from: said.reader)
            try Self.check(report, pid: pid, folder: folder)
        } catch {
            throw error.problem
        }
    }

    private static func check(_ line: Line, pid: Int32, folder: StateFolder) throws(Problem) {
        switch line {
        case .text(let text):
            guard let report = try? JSONDecoder().decode(SupervisorProcess.Report.self, from: Data(text.utf8)) else {
                throw Problem(
                    .failed,
                    "the environment's supervisor says what isn't understood",
                    "See \(folder.supervisorLog)."
                )
            }
            // The supervisor has exited or is about to, and needn't be waited for.
            if let error = report.error { throw Problem(report.code ?? .failed, error) }
        case .ended:
            var status: Int32 = 0
            let isKnown = waitpid(pid, &status, 0) == pid
            let how = isKnown ? ProcessEnd(status: status).reason : "ended"
            throw Problem(.failed, "the environment's supervisor \(how)", "See \(folder.supervisorLog).")
        case .late:
            kill(pid, SIGTERM)
            throw Problem(.failed, "the environment's supervisor doesn't answer", "See \(folder.supervisorLog).")
        }
    }

    private enum Line {
        case text(String)
        case ended
        case late
    }

    private func report(from descriptor: CInt) -> Line {
        let deadline = Steady.milliseconds + self.patienceMilliseconds
        var bytes: [UInt8] = []
        while true {
            if let end = bytes.firstIndex(of: UInt8(ascii: "\n")) {
                return .text(String(decoding: bytes[..<end], as: UTF8.self))
            }
            var wait = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = poll(&wait, 1, CInt(clamping: max(0, deadline - Steady.milliseconds)))
            if ready < 0, errno == EINTR { continue }
            guard ready > 0 else { return .late }
            var piece = [UInt8](repeating: 0, count: 4_096)
            let count = read(descriptor, &piece, piece.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0, bytes.count < 1_048_576 else { return .ended }
            bytes += piece[..<count]
        }
    }
}

extension SupervisorStarter {
    /// Starts the environment, and waits until each of its services runs or has failed, at most 30 s.
    ///
    /// - Parameter progress: called with a line for people whenever something is new of a service that has yet to run.
    /// - Returns: the state at that time. A failed service isn't an error of the environment.
    public func up(progress: (String) -> Void) throws(Problem) -> EnvironmentState {
        try self.start()
        let deadline = Steady.milliseconds + self.settlingMilliseconds
        var told: [String: String] = [:]
        while true {
            let state = try self.state()
            for service in state.services {
                let line = service.line
                let isNew = told.updateValue(line, forKey: service.service.name) != line
                if isNew, !service.isAllRunning { progress(line) }
            }
            if state.isSettled || Steady.milliseconds >= deadline { return state }
            usleep(50_000)
        }
    }

    private func state() throws(Problem) -> EnvironmentState {
        let folder = try StateFolder.open(besideFile: self.file)
        do {
            if let folder, let client = try JSONLinesClient(path: folder.supervisorSocket) {
                try client.send(SupervisorRequest.status)
                if case .message(.state(let state)) = try client.receive(SupervisorReply.self, within: 10_000) {
                    return state
                }
            }
        } catch {
            throw SupervisorClient.problem(error, folder)
        }
        throw Problem(
            .notUp,
            "the environment has ended meanwhile",
            "See \(folder?.supervisorLog ?? "its log")."
        )
    }
}

extension EnvironmentState {
    /// Whether waiting changes nothing any more: each service runs, has failed, or waits for one that has failed.
    var isSettled: Bool { self.services.allSatisfy(\.isSettled) }
}

extension EnvironmentState.ServiceState {
    fileprivate var isSettled: Bool {
        let isDecided =
            switch self.service.state {
            // A service without a process waits for another one.
            case .starting: self.process == nil || self.stranger != nil
            case .running, .restarting, .stopped: true
            }
        return isDecided && self.sidecars.allSatisfy { $0.state != .starting }
    }

    /// Itself, with nothing to say of it, and its sidecars.
    fileprivate var isAllRunning: Bool {
        self.service.state == .running && self.service.reason == nil && self.sidecars.allSatisfy { $0.state == .ready }
    }

    /// `api-server: starting, doesn't listen on 21090 yet`
    fileprivate var line: String {
        var parts = ["\(self.service.state)"]
        if let reason = self.service.reason { parts.append(reason) }
        for sidecar in self.sidecars where sidecar.state != .ready {
            parts.append("sidecar \(sidecar.name) \(sidecar.reason ?? "\(sidecar.state)")")
        }
        return "\(self.service.name): \(parts.joined(separator: ", "))"
    }
}
