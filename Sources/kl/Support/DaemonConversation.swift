import Environments
import HostSupport
import InterceptModel
import WorkspaceAPI

/// A request to the daemon, and its replies.
struct DaemonConversation {
    private let client: JSONLinesClient
    private let home: WorkspaceHome

    init(_ client: JSONLinesClient, home: WorkspaceHome) {
        self.client = client
        self.home = home
    }

    /// In milliseconds, for a reply that needs no network.
    private static let patience = 30_000

    func intercepts(within milliseconds: Int = Self.patience) throws -> [InterceptStatus] {
        try self.client.send(DaemonRequest.status)
        while true {
            switch try self.client.receive(DaemonReply.self, within: milliseconds) {
            case .message(.intercepts(let list)): return list
            case .message(.failed(let failure)): throw failure
            case .message: continue
            case .timedOut: throw SilentDaemon(pid: self.client.peer, home: self.home)
            case .ended, .interrupted: throw Self.gone
            }
        }
    }

    /// Sends a request that takes several steps. Ctrl-C ends the conversation.
    ///
    /// - Parameter isCancellable: whether the end of the conversation cancels the request.
    func perform(
        _ request: DaemonRequest,
        interrupted: String,
        isCancellable: Bool,
        onStep: (Step) -> Void
    ) throws -> InterceptStatus? {
        let interrupt = Interrupt.descriptor
        try self.client.send(request)
        while true {
            switch try self.client.receive(DaemonReply.self, unless: interrupt) {
            case .message(.step(let step)): onStep(step)
            case .message(.done(let status)): return status
            case .message(.failed(let failure)): throw failure
            case .message: continue
            case .ended, .timedOut: throw Self.gone
            case .interrupted:
                if isCancellable { self.cancel() }
                throw Problem(.interrupted, interrupted)
            }
        }
    }

    /// Cancels the request, and waits until the daemon has undone it and closes the connection.
    private func cancel() {
        self.client.endSending()
        while case .message? = try? self.client.receive(DaemonReply.self, within: 15_000) {}
    }

    /// Calls `onChange` for each change, until Ctrl-C or until it returns false.
    func follow(_ service: String, onChange: (InterceptStatus) -> Bool) throws {
        try self.client.send(DaemonRequest.follow(service: service))
        while true {
            switch try self.client.receive(DaemonReply.self, unless: Interrupt.descriptor) {
            case .message(.changed(let status)): if !onChange(status) { return }
            case .message(.failed(let failure)): throw failure
            case .message, .timedOut: continue
            case .ended: throw Self.gone
            case .interrupted: return
            }
        }
    }

    /// Ends the daemon if it has no intercepts any more.
    func shutDownIfIdle() throws {
        guard try self.intercepts().isEmpty else { return }
        try self.client.send(DaemonRequest.shutDown)
        while case .message = try self.client.receive(DaemonReply.self, within: Self.patience) {}
    }

    private static let gone = Problem(
        .failed,
        "the workspace daemon ended before it answered",
        "Try again; its log is daemon.log in the state folder (kl -v names it)"
    )
}

extension EnvironmentReference {
    /// What the daemon needs to log in to a cluster as this shell does. Any exported variable may be one that a program reads which
    /// logs in, so all of them go, but for what only kl reads and what is too large for a request. Nil: no login is needed.
    var shellVariables: [String: String]? {
        guard self.kind == .kubernetes else { return nil }
        var room = Self.variablesAtMost
        let all = Spawn.ownEnvironment.filter { !$0.key.hasPrefix("KL_") && !$0.key.hasPrefix("BASH_FUNC_") }
        return all.sorted { $0.value.utf8.count < $1.value.utf8.count }.reduce(into: [:]) { result, variable in
            room -= variable.key.utf8.count + variable.value.utf8.count
            if room >= 0 { result[variable.key] = variable.value }
        }
    }

    /// In bytes. † A shell exports some kB; as JSON they may take up to six times as much.
    private static let variablesAtMost = 32_768
}
