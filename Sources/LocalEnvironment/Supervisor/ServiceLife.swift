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
        /// For services that it depends on.
        case waiting
        case starting
        case running
        case restarting
        case stopped
    }

    enum Action: Equatable, Sendable {
        /// After this many milliseconds.
        case restart(after: Int64)
        case leave
    }

    private(set) var phase = Phase.waiting
    /// Why it isn't running.
    private(set) var reason: String?
    private(set) var restarts = 0
    /// It has run at least once, which is what its dependents wait for.
    private(set) var hasRun = false
    private let policy: ComposeService.RestartPolicy
    private var backoff = Backoff.ofService

    init(policy: ComposeService.RestartPolicy) { self.policy = policy }

    static let waitingFor = "waits for"

    /// The count may also come from a file, so it is bounded.
    private static let mostRestarts = 1_000_000_000

    /// Continues the count of an earlier supervisor.
    mutating func goesOn(restarts: Int) { self.restarts = min(max(restarts, 0), Self.mostRestarts) }

    mutating func waits(for other: String) {
        self.phase = .waiting
        self.reason = "\(Self.waitingFor) \(other)"
    }

    mutating func started(awaiting ports: [UInt16]) {
        self.phase = .starting
        self.listens(allBut: ports)
    }

    static let itsPort = "its port"

    /// - Parameters:
    ///   - lacking: the ports on which it doesn't listen yet; if there are none, it is running.
    ///   - stranger: the program that has the first of them.
    mutating func listens(allBut lacking: [UInt16], heldBy stranger: String? = nil) {
        guard self.phase == .starting else { return }
        if lacking.isEmpty {
            self.phase = .running
            self.reason = nil
            self.hasRun = true
        } else if let stranger, let port = lacking.first {
            self.reason = "\(Self.itsPort) \(port) is held by \(stranger)"
        } else {
            self.reason = "doesn't listen on \(lacking.map { String($0) }.joined(separator: ", ")) yet"
        }
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
        self.reason = reason
        guard isTriedAgain else {
            self.phase = .stopped
            return .leave
        }
        self.phase = .restarting
        self.restarts = min(self.restarts + 1, Self.mostRestarts)
        return .restart(after: self.backoff.next(afterLifeOf: life))
    }

    mutating func isEnding() {
        self.phase = .stopped
        self.reason = "is being stopped"
    }

    /// As people see it.
    var state: Service.State {
        switch self.phase {
        case .waiting, .starting: .starting
        case .running: .running
        case .restarting: .restarting
        case .stopped: .stopped
        }
    }
}
