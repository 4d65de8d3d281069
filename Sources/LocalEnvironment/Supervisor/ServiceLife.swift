import ComposeFiles
import Environments
import HostSupport

/// The life of a service's process as a value: events go in, the action to take comes out.
///
///     waiting ──▶ starting ──▶ running
///                  ▲    │         │
///                  │    ▼         ▼
///                  └─ restarting / stopped
struct ServiceLife: Equatable, Sendable {
    enum Phase: Equatable, Sendable {
        /// The service waits for one on which it depends, or for its turn.
        case waiting(for: String?)
        /// The service's process doesn't listen on these ports yet. Another program may have the first of them.
        case starting(lacking: [UInt16], stranger: String?)
        case running
        /// The process ended, or couldn't be started, for this reason; it will be started again.
        case restarting(String)
        case stopped(String)
    }

    enum Action: Equatable, Sendable {
        /// After this many milliseconds.
        case restart(after: Int64)
        case leave
    }

    private(set) var phase = Phase.waiting(for: nil)
    private(set) var restarts = 0
    /// It has run at least once, which is what its dependents wait for.
    private(set) var hasRun = false
    private let policy: ComposeService.RestartPolicy
    private var backoff = Backoff.ofService

    init(policy: ComposeService.RestartPolicy) { self.policy = policy }

    /// The count may also come from a file, so it is bounded.
    private static let mostRestarts = 1_000_000_000

    /// Continues the count of an earlier supervisor.
    mutating func goesOn(restarts: Int) { self.restarts = min(max(restarts, 0), Self.mostRestarts) }

    mutating func waits(for other: String) { self.phase = .waiting(for: other) }

    mutating func started(awaiting ports: [UInt16]) {
        self.phase = .starting(lacking: ports, stranger: nil)
        self.listens(allBut: ports)
    }

    /// - Parameters:
    ///   - lacking: the ports on which it doesn't listen yet; if there are none, it is running.
    ///   - stranger: the program that has the first of them.
    mutating func listens(allBut lacking: [UInt16], heldBy stranger: String? = nil) {
        guard case .starting = self.phase else { return }
        self.phase = lacking.isEmpty ? .running : .starting(lacking: lacking, stranger: stranger)
        if lacking.isEmpty { self.hasRun = true }
    }

    /// Its process has ended.
    /// - Parameter life: how long the process lived, in milliseconds.
    mutating func ended(_ end: ProcessEnd, afterLifeOf life: Int64) -> Action {
        let isWanted =
            switch self.policy {
            case .no: false
            case .always, .unlessStopped: true
            case .onFailure: !end.isSuccess
            }
        return self.failed(end.reason, afterLifeOf: life, isTriedAgain: isWanted)
    }

    /// It couldn't be started. It is tried again, since the program may be built in the meantime.
    mutating func couldNotStart(_ reason: String) -> Action {
        self.failed(reason, afterLifeOf: 0, isTriedAgain: self.policy != .no)
    }

    private mutating func failed(_ reason: String, afterLifeOf life: Int64, isTriedAgain: Bool) -> Action {
        guard isTriedAgain else {
            self.phase = .stopped(reason)
            return .leave
        }
        self.phase = .restarting(reason)
        self.restarts = min(self.restarts + 1, Self.mostRestarts)
        return .restart(after: self.backoff.next(afterLifeOf: life))
    }

    mutating func isEnding() { self.phase = .stopped("is being stopped") }

    // MARK: As people see it

    var state: Service.State {
        switch self.phase {
        case .waiting, .starting: .starting
        case .running: .running
        case .restarting: .restarting
        case .stopped: .stopped
        }
    }

    /// Why it isn't running, as a clause.
    var reason: String? {
        switch self.phase {
        case .waiting(let other): other.map { "waits for \($0)" }
        case .starting(let lacking, let stranger):
            if let stranger, let port = lacking.first {
                "its port \(port) is held by \(stranger)"
            } else {
                "doesn't listen on \(lacking.map { String($0) }.joined(separator: ", ")) yet"
            }
        case .running: nil
        case .restarting(let reason), .stopped(let reason): reason
        }
    }

    /// The program that has its port.
    var stranger: String? { if case .starting(_, let stranger) = self.phase { stranger } else { nil } }
}
