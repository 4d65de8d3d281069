import Diversion
import HostSupport
import InterceptModel
import InterceptProtocol
import KeyFiles
import Logging
import NIOCore
import Noise
import ProgramSupport
import SidecarAgent
import SidecarInterface

/// Where metrics are served, and a socket that already listens there, if it had to be opened before entering the namespace.
struct MetricsPlace {
    var endpoint: Endpoint?
    var socket: CInt?
}

/// The parts of the program that live on the event loop: the agent, its metrics, and the polled file of accepted keys.
struct SidecarProgram: Sendable {
    let configuration: SidecarAgent.Configuration
    private let metrics: MetricsPlace
    let options: Options
    private let peersFile: String?
    private let peers: [AcceptedKey]
    private let notifier: ServiceNotifier?
    let eventLoop: any EventLoop

    init(
        _ configuration: SidecarAgent.Configuration,
        metrics: MetricsPlace,
        options: Options,
        peersFile: String?,
        peers: [AcceptedKey],
        notifier: ServiceNotifier?,
        eventLoop: any EventLoop
    ) {
        self.configuration = configuration
        self.metrics = metrics
        self.options = options
        self.peersFile = peersFile
        self.peers = peers
        self.notifier = notifier
        self.eventLoop = eventLoop
    }

    struct Options {
        var isEphemeral = false
        /// How long after the first SIGTERM this program is killed.
        var grace: TimeAmount?
        var announcesIntercepts = false
        /// A socket of `AdmissionSocket`, if it had to be opened before entering the namespace.
        var admissionSocket: CInt?
    }

    func build() -> Running { Running(self) }

    final class Running {
        let program: SidecarProgram
        let agent: SidecarAgent
        /// The keys of the flags, except those that have left, and of the file.
        var peers: [AcceptedKey]
        var filePeers: [AcceptedKey]
        private var lastProblem: String?
        private var isReady = false
        private var mustReload = false
        private var lastTold: [SidecarAgent.Holder]?
        private var lastSeenTold: SeenAddress?
        private let notifications: NotificationQueue?
        /// What was printed last; nil until it is ready.
        private(set) var report: SidecarReport?
        private var lastAnnounced: [SidecarAgent.Holder] = []
        private var lastAnnouncedAt = NIODeadline.uptimeNanoseconds(0)
        private var upkeep = ReportUpkeep(written: 0)
        /// Limits the lines about who intercepts: a workspace may change that as often as it likes, and the lines are kept. †
        private var announcements = Allowance(atOnce: 20, interval: .seconds(1))
        private var links: LinkWatch?
        private var admission: AdmissionServer?
        private let memory: MemoryUpkeep
        private(set) var isEnding = false

        /// How often a change of counts alone is announced. †
        private static let countsEvery = TimeAmount.seconds(10)

        init(_ program: SidecarProgram) {
            self.program = program
            self.agent = SidecarAgent(program.configuration, eventLoop: program.eventLoop)
            self.peers = program.peers
            self.filePeers = Array(program.configuration.peers.dropFirst(program.peers.count))
            self.memory = MemoryUpkeep(eventLoop: program.eventLoop)
            self.notifications = program.notifier.map { NotificationQueue($0, on: program.eventLoop) }
        }

        func start() {
            self.agent.onAudit = { Console.write($0.text + "\n", to: 2) }
            self.agent.start().assumeIsolated().whenComplete { result in
                switch result {
                case .success(let ready): self.startMetrics(then: ready)
                case .failure(let error): self.fail(error)
                }
            }
        }

        private func startMetrics(then ready: SidecarAgent.Ready) {
            guard let metrics = self.program.metrics.endpoint else { return self.listen(then: ready, metrics: nil) }
            let agent = self.agent
            MetricsServer.start(
                host: metrics.host,
                port: Int(metrics.port),
                socket: self.program.metrics.socket,
                on: self.program.eventLoop
            ) { agent.measurements.metrics }
            .assumeIsolated()
            .whenComplete { result in
                switch result {
                case .success(let address): self.listen(then: ready, metrics: address)
                case .failure(let error): self.fail(StartError("Metrics can't be served on \(metrics)", error))
                }
            }
        }

        /// Listens for `kl-sidecar admit` and the like. If that fails, the keys that are accepted already can still connect.
        private func listen(then ready: SidecarAgent.Ready, metrics: SocketAddress?) {
            let log = self.program.configuration.log
            let server = AdmissionServer(eventLoop: self.program.eventLoop, log: log) { [weak self] request in
                self?.answer(request) ?? .init(line: "{}", isDone: false)
            }
            do {
                let tunnel = ready.tunnel?.endpointText ?? ""
                let socket = try self.program.options.admissionSocket ?? AdmissionSocket.listen(for: tunnel)
                server.start(on: socket).assumeIsolated().whenComplete { result in
                    switch result {
                    case .success: self.admission = server
                    case .failure(let error): log.warning("kl-sidecar admit finds no way in here: \(error)")
                    }
                    self.announce(ready, metrics: metrics)
                }
            } catch {
                log.warning("kl-sidecar admit finds no way in here: \(error)")
                self.announce(ready, metrics: metrics)
            }
        }

        private func announce(_ ready: SidecarAgent.Ready, metrics: SocketAddress?) {
            var report = SidecarReport(publicKey: self.program.configuration.staticKey.publicKey.base64)
            report.tcp = ready.tunnel?.endpointText
            report.udp = ready.datagrams?.description
            report.listen = ready.services.mapValues(\.endpointText)
            report.metrics = metrics?.endpointText
            if self.program.options.announcesIntercepts { report.tell(self.agent.holders) }
            report.originalSees = self.agent.originalSees
            self.report = report
            self.printReport()
            self.watchPeersFile()
            self.memory.start()
            self.notify()
            self.agent.onAway = { [weak self] key in self?.isAway(key) }
            if self.program.options.isEphemeral { self.endWhenUnused() }
        }

        /// An ephemeral sidecar must end by itself: the program that started it may be gone.
        private func endWhenUnused() {
            self.agent.onUnused = { [weak self] in
                guard let self else { return }
                let isIdle = self.program.configuration.idle != nil && self.agent.hasBeenUsed
                self.retire(isIdle ? "unused for the idle time" : "no workspace has come, or come back, in time")
            }
            let links = LinkWatch(eventLoop: self.program.eventLoop)
            links.start { [weak self] in
                self?.program.configuration.log.notice("the namespace's last interface has gone: ending")
                self?.shutDown()
            }
            self.links = links
        }

        private func fail(_ error: any Error) {
            Ending(name: "kl-sidecar", saying: "\(error)", code: Ending.failed).exit()
        }

        // MARK: Keys

        /// Polls the file: a removed key's connection ends within about a second.
        private func watchPeersFile() {
            guard let path = self.program.peersFile else { return }
            self.program.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(500)) {
                self.readPeersFile(path)
                self.watchPeersFile()
            }
        }

        private func readPeersFile(_ path: String) {
            do {
                let peers = try PeersFile(contentsOf: path).peers.map(AcceptedKey.init)
                self.lastProblem = nil
                guard peers != self.filePeers else { return }
                self.filePeers = peers
                self.acceptPeers()
            } catch {
                // The keys stay as they were until the file is readable again; the error is logged once.
                guard self.lastProblem != "\(error)" else { return }
                self.lastProblem = "\(error)"
                self.program.configuration.log.error("the accepted keys stay as they were: \(error)")
            }
        }

        func acceptPeers() { self.agent.accept(self.peers + self.filePeers) }

        /// SIGHUP: reads the file now, without waiting for the next poll.
        func reload() {
            // Before the agent is ready, remember the request: the file may have been read just before it was changed.
            guard self.isReady else {
                self.mustReload = true
                return
            }
            self.notifications?.reloading()
            if let path = self.program.peersFile { self.readPeersFile(path) }
            self.notifications?.ready()
        }

        // MARK: Notifications

        private func notify() {
            self.isReady = true
            if self.mustReload { self.reload() }
            self.notifications?.ready()
            guard self.program.notifier != nil || self.program.options.announcesIntercepts else { return }
            self.agent.onInterceptChange = { [weak self] in self?.interceptChanged() }
            self.interceptChanged()
            self.watchCounts()
        }

        private func interceptChanged() {
            if self.program.notifier != nil { self.tellIntercept() }
            if self.program.options.announcesIntercepts { self.announceIntercept() }
        }

        /// Prints the ready line again. Each line is complete, and the last one counts.
        private func announceIntercept() {
            let holders = self.agent.holders
            let sees = self.agent.originalSees
            let seesOther = sees != self.report?.originalSees
            let isDue = self.upkeep.isDue(written: Console.bytesWritten)
            guard isDue || seesOther || !holders.isLike(self.lastAnnounced) else { return }
            let isMore =
                seesOther || !holders.map(\.withoutCounts).isLike(self.lastAnnounced.map(\.withoutCounts))
            // What isn't announced now is announced by `watchCounts` within the next seconds.
            let isTime = NIODeadline.now() - self.lastAnnouncedAt >= Self.countsEvery
            guard isDue || (isMore ? self.announcements.take() : isTime) else { return }
            self.lastAnnounced = holders
            self.lastAnnouncedAt = .now()
            self.report?.tell(holders)
            self.report?.originalSees = sees
            self.printReport()
        }

        private func printReport() {
            guard let report = self.report else { return }
            Console.write(report.line + "\n", to: 1)
            self.upkeep = ReportUpkeep(written: Console.bytesWritten)
        }

        /// Checks every second, since changes of the counts cause no event.
        private func watchCounts() {
            self.program.eventLoop.assumeIsolated().scheduleTask(in: .seconds(1)) {
                self.interceptChanged()
                self.watchCounts()
            }
        }

        private func tellIntercept() {
            let holders = self.agent.holders
            let sees = self.agent.originalSees
            guard !holders.isLike(self.lastTold) || sees != self.lastSeenTold else { return }
            var notice = DivertingNotice(holders)
            notice.originalSees = sees
            let isSent = self.program.notifier?.send(notice.fields)
            // If it isn't sent, it is tried again in a second.
            if isSent == true { (self.lastTold, self.lastSeenTold) = (holders, sees) }
        }

        // MARK: Ending

        /// SIGTERM. What was told to end with this program may go on for a while, and so does this.
        func terminate() {
            guard let grace = self.program.options.grace, !self.isEnding else { return self.shutDown() }
            self.program.notifier?.stopping()
            self.agent.goOn(within: grace) { [weak self] in self?.shutDown() }
        }

        func shutDown() {
            guard !self.isEnding else { return }
            self.isEnding = true
            self.program.notifier?.stopping()
            self.agent.shutDown().assumeIsolated().whenComplete { _ in
                Ending(name: "kl-sidecar", saying: nil, code: Ending.done).exit()
            }
        }
    }
}

extension SocketAddress {
    /// HOST:PORT, as a flag takes it.
    fileprivate var endpointText: String {
        Endpoint(host: self.ipAddress ?? "", port: UInt16(clamping: self.port ?? 0)).description
    }
}

extension SidecarMeasurements {
    fileprivate var metrics: [Metric] {
        [
            Metric(
                "kl_sidecar_diverting",
                .gauge,
                "1 while a workspace gets new connections.",
                self.isDiverting ? 1 : 0
            ),
            Metric(
                "kl_sidecar_holders",
                .gauge,
                "Keys that hold or claim ports.",
                HoldingKind.allCases.map { ([("kind", $0.rawValue)], Double(self.holders[$0] ?? 0)) }
            ),
            Metric(
                "kl_sidecar_refused_total",
                .counter,
                "Workspaces' requests for ports that were refused, by reason.",
                self.refused.map { ([("code", $0.code)], Double($0.count)) }
            ),
            Metric("kl_sidecar_clients", .gauge, "Clients that are connected.", Double(self.clients)),
            Metric("kl_sidecar_streams", .gauge, "Clients that are in the tunnel.", Double(self.openStreams)),
            Metric("kl_sidecar_intercepted_total", .counter, "Clients given to a workspace.", Double(self.intercepted)),
            Metric("kl_sidecar_passed_total", .counter, "Clients given to the original.", Double(self.passed)),
            Metric("kl_sidecar_bytes_in", .gauge, "Bytes from clients to connected workspaces.", Double(self.bytesIn)),
            Metric(
                "kl_sidecar_bytes_out",
                .gauge,
                "Bytes from connected workspaces to clients.",
                Double(self.bytesOut)
            ),
            Metric(
                "kl_tunnel_messages_sent",
                .gauge,
                "Messages sealed in present connections.",
                Double(self.messagesSent)
            ),
            Metric(
                "kl_tunnel_messages_received",
                .gauge,
                "Messages opened in present connections.",
                Double(self.messagesReceived)
            ),
            Metric(
                "kl_tunnel_messages_lost",
                .gauge,
                "Messages whose frames were sent again.",
                Double(self.messagesLost)
            ),
            Metric(
                "kl_tunnel_dropped_total",
                .counter,
                "Messages dropped without an answer, by reason.",
                self.drops.map { ([("reason", $0.reason)], Double($0.count)) }
            ),
        ]
    }
}
