import Environments
import FoundationEssentials
import HostSupport
import Libc

extension SupervisorStarter {
    /// Starts the environment, and waits until each of its services runs or has failed, at most 30 s.
    ///
    /// - Parameter progress: called with a line for people whenever something is new.
    /// - Returns: the state at that time. A failed service isn't an error of the environment.
    public func up(progress: (String) -> Void) throws(EnvironmentError) -> EnvironmentState {
        try self.start()
        let deadline = Steady.milliseconds + self.settlingMilliseconds
        var told: [String: String] = [:]
        while true {
            let state = try self.state()
            for service in state.services {
                let line = service.line
                if told.updateValue(line, forKey: service.service.name) != line { progress(line) }
            }
            if state.isSettled || Steady.milliseconds >= deadline { return state }
            usleep(50_000)
        }
    }

    private func state() throws(EnvironmentError) -> EnvironmentState {
        let folder = try StateFolder.open(besideFile: self.file)
        do {
            if let folder, let client = try JSONLinesClient(path: folder.supervisorSocket) {
                try client.send(SupervisorRequest.status)
                if case .message(.state(let state)) = try client.receive(SupervisorReply.self, within: 10_000) {
                    return state
                }
            }
        } catch {
            throw EnvironmentError(.failed, "the environment's supervisor can't be asked: \(error).")
        }
        throw EnvironmentError(
            .notUp,
            "the environment has ended meanwhile. See \(folder?.supervisorLog ?? "its log")."
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
            case .starting:
                self.process == nil && self.service.reason?.hasPrefix(ServiceLife.waitingFor) == true
                    || self.service.reason?.hasPrefix(ServiceLife.itsPort) == true
            case .running, .restarting, .stopped: true
            }
        return isDecided && self.sidecars.allSatisfy { $0.state != .starting }
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

/// A monotonic clock.
enum Steady {
    static var milliseconds: Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
    }
}
