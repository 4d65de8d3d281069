import Carriers
import NIOCore

/// What has kept the agent from a connection since it began to dial.
struct DialTrouble {
    /// Of the last round through the sidecar's addresses.
    private var failures: [DialFailure] = []
    private var loggedAt: NIODeadline?
    private var keysDiffer = false
    private var sidecarIsBusy = false

    private static let logInterval = TimeAmount.minutes(1)

    /// - Returns: whether to log it: it is another failure, or the last line is long ago.
    mutating func failed(_ failures: [DialFailure], at now: NIODeadline) -> Bool {
        let isDue = self.failures != failures || self.loggedAt.map { now - $0 >= Self.logInterval } ?? true
        self.failures = failures
        if isDue { self.loggedAt = now }
        return isDue
    }

    /// - Returns: whether that is new.
    mutating func presharedKeysDiffered() -> Bool {
        defer { self.keysDiffer = true }
        return !self.keysDiffer
    }

    /// - Returns: whether that is new.
    mutating func sidecarWasBusy() -> Bool {
        defer { self.sidecarIsBusy = true }
        return !self.sidecarIsBusy
    }

    /// As a clause, if known.
    var clause: String? {
        if self.keysDiffer { return "the preshared keys differ" }
        return self.failures.isEmpty ? nil : self.failures.text
    }

    /// Why the agent gives up; nil: it has heard nothing at all, which has many causes.
    var failure: WorkspaceAgent.Failure? {
        if self.keysDiffer { return .presharedKeysDiffer }
        if self.sidecarIsBusy { return .overloaded }
        guard let last = self.failures.last, !last.isSilenceOverDatagrams else { return nil }
        return .notDialled(self.failures)
    }
}
