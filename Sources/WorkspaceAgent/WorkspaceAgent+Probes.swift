import InterceptProtocol
import NIOCore

/// Probes: whether connections come through the tunnel to the local servers.
extension WorkspaceAgent {
    /// The probe that waits for its answer. One at a time.
    struct Probing {
        private var lastID: UInt64 = 0
        private var pending: (onResult: (ProbeResult) -> Void, timeout: Scheduled<Void>)?

        /// Its number; nil: there is none.
        var current: UInt64? { self.pending == nil ? nil : self.lastID }

        func isCurrent(_ id: UInt64) -> Bool { self.current == id }

        mutating func nextID() -> UInt64 {
            self.lastID += 1
            return self.lastID
        }

        mutating func begin(_ onResult: @escaping (ProbeResult) -> Void, timeout: Scheduled<Void>) {
            self.pending = (onResult, timeout)
        }

        /// - Returns: whom to tell.
        mutating func end() -> ((ProbeResult) -> Void)? {
            defer { self.pending = nil }
            self.pending?.timeout.cancel()
            return self.pending?.onResult
        }
    }

    /// The sidecar answers within 8 s.
    private static var probeWithin: TimeAmount { .seconds(12) }

    /// Has the sidecar open a test connection to each port. One probe at a time: an earlier one ends as failed.
    public func probe(_ onResult: @escaping (ProbeResult) -> Void) {
        self.endProbe(.failed("another probe was begun"))
        let id = self.probing.nextID()
        guard self.hasRoomToSay else { return onResult(.failed("the sidecar doesn't read what it is told")) }
        let timeout = self.eventLoop.assumeIsolated().scheduleTask(in: Self.probeWithin) { [weak self] () -> Void in
            self?.endProbe(.failed("the sidecar doesn't answer"))
        }
        self.probing.begin(onResult, timeout: timeout)
        self.send(.probe(.init(id: id, ports: self.configuration.targets.ports)))
    }

    func endProbe(_ result: ProbeResult) { self.probing.end()?(result) }
}
