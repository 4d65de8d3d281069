import HostSupport
import InterceptModel
import NIOCore
import WorkspaceAPI

/// One connection of the API. When it closes, the requests it made are cancelled.
@DaemonLoop
final class Client {
    private let connection: Daemon.Server.Connection
    private unowned let daemon: Daemon
    private var tasks: [UInt64: Task<Void, Never>] = [:] { didSet { self.judgeWaiting() } }
    private var nextTask: UInt64 = 0
    private var followed: Set<String> = [] { didSet { self.judgeWaiting() } }
    private var isClosed = false

    /// For one connection; the CLI needs one.
    private static let tasksAtMost = 16

    init(_ connection: Daemon.Server.Connection, daemon: Daemon) {
        self.connection = connection
        self.daemon = daemon
    }

    func take(_ incoming: Checked<DaemonRequest>) {
        let daemon = self.daemon
        let request: DaemonRequest
        do throws(Problem) {
            request = try incoming.result.get()
        } catch {
            return self.connection.send(.failed(error))
        }
        switch request {
        case .status: self.connection.send(.intercepts(daemon.intercepts))
        case .follow(let service): self.follow(service)
        case .start(let request, let variables):
            let number = self.nextTask
            self.run { progress in
                try await daemon.start(
                    request,
                    variables,
                    cancel: { [weak self] in self?.tasks[number]?.cancel() },
                    progress
                )
            }
        case .stop(let request, let variables): self.run { try await daemon.stop(request, variables, $0) }
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
            return self.connection.send(.failed(Problem(.failed, "too much is asked at once", "Try again.")))
        }
        let number = self.nextTask
        self.nextTask += 1
        let connection = self.connection
        self.tasks[number] = Task {
            do {
                connection.send(.done(try await body { connection.send(.step($0)) }))
            } catch is CancellationError {
                connection.send(.failed(Problem(.failed, "the request was cancelled before it was done", "Try again.")))
            } catch {
                connection.send(.failed(error as? Problem ?? Problem(.failed, "\(error)")))
            }
            self.tasks[number] = nil
            self.closeIfDone()
        }
    }

    private func follow(_ service: String) {
        let now = self.daemon.intercepts.filter { $0.service == service }
        guard !now.isEmpty else {
            return self.connection.send(.failed(.noSuchIntercept(of: service)))
        }
        self.followed.insert(service)
        for status in now { self.connection.send(.changed(status)) }
    }

    func tell(_ status: InterceptStatus) {
        // A client that reads slowly misses intermediate states.
        guard self.followed.contains(status.service), self.connection.isWritable else { return }
        self.connection.send(.changed(status))
    }

    /// The intercept is gone: a client that only followed it is disconnected.
    func ended(_ service: String) {
        if self.followed.remove(service) != nil, self.followed.isEmpty, self.tasks.isEmpty { self.connection.close() }
    }

    /// The client has closed its side: its requests are cancelled, and the connection stays open only until they are
    /// undone.
    func closed() {
        self.isClosed = true
        self.followed = []
        for task in self.tasks.values { task.cancel() }
        self.closeIfDone()
    }

    private func closeIfDone() { if self.isClosed, self.tasks.isEmpty { self.connection.close() } }
}

extension Problem {
    static func noSuchIntercept(of service: String) -> Problem {
        Problem(.noSuchIntercept, "'\(service)' isn't intercepted by this workspace", "See: kl intercept list")
    }
}
