import ComposeFiles
import Environments
import HostSupport
import InterceptModel
import Libc
import Logging
import NIOCore
import NIOPosix

/// Brings an environment up, or takes over the processes of a supervisor that is gone.
struct Starting: Sendable {
    let file: ComposeFile
    let folder: StateFolder
    let sidecar: String
    let log: Logger

    /// - Precondition: the supervisor's lock is held, and this is called on the event loop.
    /// - Throws: if it fails; then nothing runs that didn't run before.
    func start(on eventLoop: any EventLoop) throws(Problem) -> Supervisor {
        guard let identity = ProcessIdentity.own else {
            throw Problem(.failed, "/proc can't be read", "Mount it, then try again.")
        }
        let context = SupervisorContext(
            eventLoop: eventLoop,
            folder: self.folder,
            sidecar: self.sidecar,
            environment: Spawn.ownEnvironment,
            log: self.log
        )
        Cleanup.removeHalfWritten(in: self.folder)
        let adopted = try self.endWhatIsNotAdopted(context.mark)
        context.notifications = self.openNotifications(adopting: adopted != nil)
        let supervisor = Supervisor(
            self.file,
            context: context,
            identity: identity,
            since: adopted?.since ?? UTCTime.now.rfc3339
        )
        do throws(Problem) {
            try supervisor.start(adopting: adopted, servingOn: try self.listen())
        } catch {
            _ = Cleanup.remove(from: self.folder)
            throw error
        }
        self.receiveNotifications(context.notifications, for: supervisor, on: eventLoop)
        return supervisor
    }

    private func listen() throws(Problem) -> CInt {
        do throws(HostError) {
            return try LocalSocket.listen(at: self.folder.supervisorSocket, mode: self.folder.fileMode)
        } catch {
            throw Problem(error)
        }
    }

    /// Ends the leftover processes that the compose file no longer describes, and returns the state of those to adopt.
    ///
    /// - Throws: some belong to another user, and their supervisor is gone: only that user can end them or tell them of new
    ///   keys.
    private func endWhatIsNotAdopted(_ mark: SupervisorMark) throws(Problem) -> EnvironmentState? {
        // A state file that can't be read names no processes; they are still found by their mark.
        var state = (try? EnvironmentState.read(from: self.folder)) ?? nil
        let others = (state?.services ?? []).flatMap { [$0.process] + $0.sidecars.map(\.process) }
            .compactMap { $0 }.filter(\.isOutOfReach)
        guard others.isEmpty else { throw SupervisorEnding.othersProcesses(others) }
        var unwanted: [ProcessIdentity] = []
        var roles: Set<SupervisorMark.Role> = []
        state?.services.removeAll { service in
            let isSame = self.file.services.contains { $0.name == service.service.name && self.hasPorts($0, service) }
            let processes = [service.process] + service.sidecars.map(\.process)
            guard isSame else {
                unwanted += processes.compactMap { $0 }
                return true
            }
            if service.process?.isAlive == true { roles.insert(.service(service.service.name)) }
            for sidecar in service.sidecars where sidecar.process?.isAlive == true && sidecar.location != nil {
                roles.insert(.sidecar(sidecar.name))
            }
            return false
        }
        if !roles.isEmpty {
            self.log.notice("taking over what runs: \(roles.map(\.text).sorted().joined(separator: ", "))")
        }
        for process in Leftovers.end(groups: unwanted, others: { mark.processes(except: roles) }, grace: 10) {
            self.log.error("process \(process.pid) is left from before and another user's")
        }
        return roles.isEmpty ? nil : state
    }

    private func hasPorts(_ service: ComposeService, _ state: EnvironmentState.ServiceState) -> Bool {
        let ports = Set(service.ports.map { [$0.published, $0.target, $0.transport == .udp ? 1 : 0] })
        return ports == Set(state.service.ports.map { [$0.published, $0.target, $0.isUDP ? 1 : 0] })
    }

    // MARK: Notifications

    /// The socket gets the name that adopted sidecars know, if it is free; otherwise it is made in the folder, if the path
    /// isn't too long.
    private func openNotifications(adopting: Bool) -> NotificationSocket? {
        if adopting, let bytes = try? SmallFile.read(self.folder.notificationName),
            let socket = try? NotificationSocket(name: String(decoding: bytes, as: UTF8.self))
        {
            return socket
        }
        do throws(HostError) {
            if let socket = try NotificationSocket(path: self.folder.notificationSocket) {
                unlink(self.folder.notificationName)
                return socket
            }
        } catch {
            self.log.warning("\(error)")
        }
        let random = (0..<2).map { _ in String(UInt64.random(in: .min ... .max), radix: 36) }.joined()
        do throws(HostError) {
            guard let socket = try NotificationSocket(name: "kl-\(random)") else { return nil }
            try SmallFile.replace(
                self.folder.notificationName,
                with: Array(socket.name.dropFirst().utf8),
                mode: self.folder.fileMode
            )
            return socket
        } catch {
            self.log.error("sidecars can't tell how they are: \(error)")
            return nil
        }
    }

    /// Waits in its own thread, as long as the process lives.
    private func receiveNotifications(
        _ socket: NotificationSocket?,
        for supervisor: Supervisor,
        on eventLoop: any EventLoop
    ) {
        guard let socket else { return }
        let receiver = NIOLoopBound(supervisor, eventLoop: eventLoop)
        let threads = NIOThreadPool(numberOfThreads: 1)
        threads.start()
        threads.submit { _ in
            while let datagram = socket.next() { eventLoop.execute { receiver.value.received(datagram) } }
        }
    }
}
