import ComposeFiles
import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Libc
import Logging
import NIOCore

/// Keeps a local environment up: holds its public ports, runs its services with a sidecar in front of each, restarts what
/// ends, and reports the state in `state.json`.
///
/// Used on one event loop only, as are all its parts.
final class Supervisor {
    let context: SupervisorContext
    let file: ComposeFile
    let services: [SupervisedService]
    private let since: String
    private let identity: ProcessIdentity
    private var writer: StateWriter
    private var server: JSONLinesServer<SupervisorRequest, SupervisorReply>?
    private var members: MembersFile
    private var refreshes: [Refresh] = []
    private(set) var isEnding = false
    private var folderWatch: FolderWatch
    private var endOrder: EndingOrder
    private var endListeners: [(SupervisorReply) -> Void] = []

    struct Refresh {
        let generation: Int
        let deadline: NIODeadline
        let reply: (SupervisorReply) -> Void
    }

    init(_ file: ComposeFile, context: SupervisorContext, identity: ProcessIdentity, since: String) {
        self.file = file
        self.context = context
        self.identity = identity
        self.since = since
        self.services = file.services.map { SupervisedService($0, context: context) }
        self.writer = StateWriter(folder: context.folder, log: context.log)
        self.members = MembersFile(folder: context.folder, log: context.log)
        self.folderWatch = FolderWatch(context.folder.path)
        self.endOrder = EndingOrder(file.services.map { ($0.name, $0.dependsOn) })
    }

    var state: EnvironmentState {
        var state = EnvironmentState(
            name: self.file.name,
            file: self.file.path,
            supervisor: self.identity,
            since: self.since,
            services: self.services.map(\.state)
        )
        state.problem = self.writer.problem ?? self.members.problem
        return state
    }

    // MARK: Starting

    /// - Parameters:
    ///   - adopted: the state that an earlier supervisor has left, with processes that may still live.
    ///   - socket: from `LocalSocket.listen`.
    /// - Throws: if a public port is taken and nothing is running yet.
    func start(adopting adopted: EnvironmentState?, servingOn socket: CInt) throws(Problem) {
        let left = adopted?.services ?? []
        var sidecars: [SupervisedSidecar] = []
        var toStart: [SupervisedService] = []
        for service in self.services {
            let earlier = left.first { $0.service.name == service.service.name }
            if let sidecar = service.sidecar, !(earlier?.sidecars.first.map(sidecar.adopt) ?? false) {
                sidecars.append(sidecar)
            }
            if !(earlier.map(service.adopt) ?? false) { toStart.append(service) }
        }
        // If nothing runs yet, a taken port fails the whole start; otherwise only that sidecar waits for its port.
        if adopted == nil { for sidecar in sidecars { try sidecar.openPorts() } }
        self.members.update(&self.context.peersGeneration)
        for sidecar in sidecars { sidecar.start() }
        for service in toStart { service.waits(for: "its turn") }
        self.startWaiting()
        self.serve(on: socket)
        self.context.onChange = { [weak self] in self?.changed(isUrgent: $0) }
        // Before any client is told that the environment is up.
        self.writeState()
        self.everySecond()
    }

    /// Starts each waiting service once those that it depends on have run.
    private func startWaiting() {
        guard !self.isEnding else { return }
        // Repeat, since a service without ports runs at once, and services that wait for it may stand before it in the
        // file.
        var mayGoOn = true
        while mayGoOn {
            mayGoOn = false
            for service in self.services {
                guard case .waiting = service.life.phase else { continue }
                let lacking = service.service.dependsOn.first { name in
                    self.services.contains { $0.service.name == name && !$0.life.hasRun }
                }
                if let lacking {
                    service.waits(for: lacking)
                } else {
                    service.start()
                    mayGoOn = true
                }
            }
        }
    }

    // MARK: Changes

    private var isChanging = false
    private var writing: (task: Scheduled<Void>, isUrgent: Bool)?

    private func changed(isUrgent: Bool) {
        self.answerRefreshes()
        if !self.isChanging {
            self.isChanging = true
            defer { self.isChanging = false }
            self.startWaiting()
        }
        if let writing = self.writing {
            guard isUrgent, !writing.isUrgent else { return }
            writing.task.cancel()
        }
        // Changes within one turn of the event loop are written once; counters are written once a second.
        let task = self.context.after(milliseconds: isUrgent ? 0 : 1_000) {
            self.writing = nil
            self.writeState()
        }
        self.writing = (task, isUrgent)
    }

    private func writeState() { self.writer.write(self.state) }

    private func everySecond() {
        self.context.after(milliseconds: 1_000) {
            guard !self.isEnding else { return }
            if self.folderWatch.look() != .there {
                let path = self.context.folder.path
                self.context.log.notice("\(path) was moved or removed, and the environment ends with it")
                return self.end()
            }
            if self.members.update(&self.context.peersGeneration) { self.askSidecars() }
            if self.writer.problem != nil { self.writeState() }
            self.cutLogs()
            self.everySecond()
        }
    }

    private func cutLogs() {
        let folder = self.context.folder
        let paths =
            [folder.supervisorLog] + self.services.map { folder.log(ofService: $0.service.name) }
            + self.services.compactMap(\.sidecar).map { folder.log(ofSidecar: $0.state.name) }
        for path in paths { LogFiles.cutIfLarge(path, mode: folder.fileMode) }
    }

    func received(_ datagram: NotificationSocket.Datagram) {
        guard datagram.sender > 0,
            let sidecar = self.services.compactMap(\.sidecar).first(where: { $0.pid == datagram.sender })
        else { return }
        sidecar.received(datagram.fields)
        self.answerRefreshes()
    }

    // MARK: Requests

    private func serve(on socket: CInt) {
        let isShared = self.context.folder.isShared
        let server = JSONLinesServer<SupervisorRequest, SupervisorReply>(
            eventLoop: self.context.eventLoop,
            // In a folder shared with a group, the socket's mode decides which users may connect.
            mayConnect: { isShared || $0 == geteuid() || $0 == 0 },
            onConnect: { _ in },
            onRequest: { [weak self] request, connection in
                connection.isWaiting = true
                self?.handle(request) { [weak connection] reply in
                    if case .progress = reply {} else { connection?.isWaiting = false }
                    connection?.send(reply)
                }
            }
        )
        server.start(on: socket).whenFailure { [log = self.context.log] in log.error("requests can't be taken: \($0)") }
        self.server = server
    }

    private func handle(_ request: SupervisorRequest, _ reply: @escaping (SupervisorReply) -> Void) {
        switch request {
        case .status: reply(.state(self.state))
        case .refresh: self.refresh(reply)
        case .down:
            self.endListeners.append(reply)
            self.end()
        }
    }

    // MARK: Keys

    /// The reasons of `.failed` are clauses: the client adds what couldn't be done.
    private static let ending = "the environment is being ended"

    private func refresh(_ reply: @escaping (SupervisorReply) -> Void) {
        guard !self.isEnding else { return reply(.failed(Self.ending)) }
        self.members.update(&self.context.peersGeneration)
        if let problem = self.members.problem { return reply(.failed(problem)) }
        self.refreshes.append(
            Refresh(generation: self.context.peersGeneration, deadline: .now() + .seconds(5), reply: reply)
        )
        self.askSidecars()
        self.answerRefreshes()
        self.context.after(milliseconds: 5_010) { self.answerRefreshes() }
        self.askLateSidecars()
    }

    private var isAskingAgain = false

    /// Reports are lost when many sidecars send at once: the kernel queues ten datagrams for our socket. Sidecars that are
    /// late are asked again, as long as a request waits for them.
    private func askLateSidecars() {
        guard !self.isAskingAgain else { return }
        self.isAskingAgain = true
        self.context.after(milliseconds: 250) {
            self.isAskingAgain = false
            guard !self.refreshes.isEmpty else { return }
            let generation = self.context.peersGeneration
            for sidecar in self.services.compactMap(\.sidecar) where !sidecar.hasRead(generation) {
                sidecar.isAskedAgain()
            }
            self.askLateSidecars()
        }
    }

    private func askSidecars() { for sidecar in self.services.compactMap(\.sidecar) { sidecar.readKeysAgain() } }

    private func answerRefreshes() {
        let now = NIODeadline.now()
        self.refreshes.removeAll { refresh in
            let late = self.services.compactMap(\.sidecar).first { !$0.hasRead(refresh.generation) }
            guard let late else {
                refresh.reply(.refreshed)
                return true
            }
            guard now >= refresh.deadline else { return false }
            let log = self.context.folder.log(ofSidecar: late.state.name)
            refresh.reply(.failed("sidecar \(late.state.name) hasn't read the keys within 5 s, see \(log)"))
            return true
        }
    }

    // MARK: Ending

    /// Called once everything has ended and is removed, so the process may exit.
    var onEnd: () -> Void = {}

    func end() {
        guard !self.isEnding else { return }
        self.isEnding = true
        self.context.log.info("ending")
        for refresh in self.refreshes { refresh.reply(.failed(Self.ending)) }
        self.refreshes = []
        self.endNext()
    }

    private func endNext() {
        for name in self.endOrder.next() {
            guard let service = self.services.first(where: { $0.service.name == name }) else { continue }
            service.end {
                self.tell(.progress("\(name) has ended"))
                self.endOrder.ended(name)
                self.endNext()
            }
        }
        if self.endOrder.isDone { self.allHaveEnded() }
    }

    private var isCleaned = false

    private func allHaveEnded() {
        guard !self.isCleaned else { return }
        self.isCleaned = true
        self.writing?.task.cancel()
        self.writing = nil
        self.context.onChange = { _ in }
        let problem = self.removeRest()
        self.server?.close()
        self.onEnd()
        self.tell(problem.map { .failed($0) } ?? .done)
    }

    /// Nil, or a sentence that says what couldn't be removed.
    private func removeRest() -> String? {
        // If another folder is in the same place, the processes marked with its path and the files in it are another
        // environment's.
        guard self.folderWatch.now != .replaced else { return nil }
        let mark = self.context.mark
        let rest = Leftovers.end(groups: [], others: { mark.processes() }, grace: 1)
        for process in rest { self.context.log.error("process \(process.pid) couldn't be ended: it is another user's") }
        guard self.folderWatch.now == .there else { return nil }
        return Cleanup.remove(from: self.context.folder)
    }

    private func tell(_ reply: SupervisorReply) { for listener in self.endListeners { listener(reply) } }
}
