import HostSupport
import NIOCore

/// One connection of the API: what it has asked for ends with it.
@DaemonLoop
final class Client {
    private let connection: Daemon.Server.Connection
    private unowned let daemon: Daemon
    private var tasks: [UInt64: Task<Void, Never>] = [:] { didSet { self.judgeWaiting() } }
    private var nextTask: UInt64 = 0
    private var followed: Set<String> = [] { didSet { self.judgeWaiting() } }
    private var isClosed = false

    /// Of one connection. The CLI has one.
    private static let tasksAtMost = 16

    init(_ connection: Daemon.Server.Connection, daemon: Daemon) {
        self.connection = connection
        self.daemon = daemon
    }

    func take(_ request: DaemonRequest) {
        let daemon = self.daemon
        switch request {
        case .status: self.connection.send(.intercepts(daemon.intercepts))
        case .follow(let service): self.follow(service)
        case .start(let request):
            let number = self.nextTask
            self.run { progress in
                try await daemon.start(request, cancel: { [weak self] in self?.tasks[number]?.cancel() }, progress)
            }
        case .stop(let request): self.run { try await daemon.stop(request, $0) }
        case .shutDown:
            self.connection.isWaiting = true
            Task {
                await daemon.shutDown()
                self.connection.send(.done(nil))
            }
        case .handOver:
            self.connection.isWaiting = true
            Task {
                await daemon.handOver()
                self.connection.send(.done(nil))
                daemon.end()
            }
        }
    }

    private func judgeWaiting() { self.connection.isWaiting = !self.tasks.isEmpty || !self.followed.isEmpty }

    private func run(_ body: @escaping @DaemonLoop (@escaping Progress) async throws -> InterceptStatus) {
        guard self.tasks.count < Self.tasksAtMost else {
            return self.connection.send(.failed(.init(code: .failed, message: "too much is asked at once. Try again.")))
        }
        let number = self.nextTask
        self.nextTask += 1
        let connection = self.connection
        self.tasks[number] = Task {
            do {
                connection.send(.done(try await body { connection.send(.step($0)) }))
            } catch {
                connection.send(.failed(RequestFailure(error).failure))
            }
            self.tasks[number] = nil
            self.closeIfDone()
        }
    }

    private func follow(_ service: String) {
        let now = self.daemon.intercepts.filter { $0.service == service }
        guard !now.isEmpty else {
            let message = "'\(service)' isn't intercepted by this workspace. See: kl intercept list"
            return self.connection.send(.failed(.init(code: .noSuchIntercept, message: message)))
        }
        self.followed.insert(service)
        for status in now { self.connection.send(.changed(status)) }
    }

    func tell(_ status: InterceptStatus) {
        // Whoever reads slowly gets the next state, not each.
        guard self.followed.contains(status.service), self.connection.isWritable else { return }
        self.connection.send(.changed(status))
    }

    /// There is nothing left to follow.
    func ended(_ service: String) {
        if self.followed.remove(service) != nil, self.followed.isEmpty, self.tasks.isEmpty { self.connection.close() }
    }

    /// It asks nothing more, and waits at most for what it asked for to be undone.
    func closed() {
        self.isClosed = true
        self.followed = []
        for task in self.tasks.values { task.cancel() }
        self.closeIfDone()
    }

    private func closeIfDone() { if self.isClosed, self.tasks.isEmpty { self.connection.close() } }
}
