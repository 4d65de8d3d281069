public import Carriers
public import InterceptProtocol
public import Logging
public import NIOCore
import NIOPosix
import Noise
public import Tunnel

/// The developer's half: dials a sidecar, asks it for the service's ports, and hands what comes to local servers.
///
/// Lives on one event loop, as do the tunnel, its carrier and all local sockets.
public final class WorkspaceAgent {
    public struct Configuration: Sendable {
        public var tunnel: Initiator.Configuration
        public var sidecar: TunnelClient.Address
        public var mappings: [PortMapping]
        public var onUnavailable: OnUnavailable = .original
        public var probes: Probes = .original
        public var drainSeconds = 10
        /// Take the service from whoever has it.
        public var takesOver = false
        /// What other people are told about whose intercept it is.
        public var label: String
        public var log: Logger

        public init(
            tunnel: Initiator.Configuration,
            sidecar: TunnelClient.Address,
            mappings: [PortMapping],
            label: String,
            log: Logger
        ) {
            self.tunnel = tunnel
            self.sidecar = sidecar
            self.mappings = mappings
            self.label = label
            self.log = log
        }
    }

    public enum Outcome: Equatable, Sendable {
        /// The sidecar has said `started`.
        case ready(roundTripTime: TimeAmount?)
        /// It can't go on, in a sentence, and whether that is because someone else has the service.
        case failed(String, isBusy: Bool)
        /// It was told to end, and has.
        case ended
    }

    public let eventLoop: any EventLoop
    private let configuration: Configuration
    private let log: Logger
    private var targets: [ControlMessage.Port: DialTarget] = [:]
    private(set) var client: TunnelClient?
    private var onOutcome: ((Outcome) -> Void)?
    private var connections: [StreamID: LocalConnection] = [:]
    private var decoder = ControlMessageDecoder()
    private var isStarted = false
    private var isEnding = false
    /// Who took the service over, once someone has.
    private var newHolder: String?
    private var startTimeout: Scheduled<Void>?
    private var endTimeout: Scheduled<Void>?
    private var lastDialFailure: String?
    private var dialFailureSaidAt = NIODeadline.now()
    private var keysDiffer = false
    private var presence = Presence.live
    private var saysServerIsMissing = false
    private var mayWarnAgainAt = NIODeadline.now()

    /// How long the first `started` may take.
    private static let startWithin = TimeAmount.seconds(10)
    /// One generation: this agent never changes its list of ports.
    private static let generation: UInt64 = 1

    /// - Precondition: called on the event loop, as every method here.
    public init(_ configuration: Configuration, eventLoop: any EventLoop) throws {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.log = configuration.log
        for mapping in configuration.mappings {
            let target = mapping.target
            if target.host == "127.0.0.1" {
                self.targets[mapping.service] = DialTarget(loopbackPort: Int(target.port))
            } else {
                do {
                    self.targets[mapping.service] = try DialTarget(host: target.host, port: Int(target.port))
                } catch {
                    throw StartError("'\(target)' can't be reached: \(Failure.describe(error)). Check the --map.")
                }
            }
        }
    }

    /// Begins. The outcomes come on the event loop: `ready` at most once, then one that ends.
    public func start(_ onOutcome: @escaping (Outcome) -> Void) {
        self.onOutcome = onOutcome
        let client = TunnelClient(
            self.configuration.tunnel,
            address: self.configuration.sidecar,
            eventLoop: self.eventLoop,
            delegate: self
        )
        self.client = client
        self.startTimeout = self.eventLoop.assumeIsolated().scheduleTask(in: Self.startWithin) { [weak self] in
            self?.noAnswer()
        }
        client.start()
    }

    private func finish(_ outcome: Outcome) {
        guard let onOutcome = self.onOutcome else { return }
        self.onOutcome = nil
        self.startTimeout?.cancel()
        self.endTimeout?.cancel()
        for connection in self.connections.values { connection.streamEnded() }
        onOutcome(outcome)
    }

    private func fail(_ reason: String, isBusy: Bool = false) {
        self.client?.close(.done)
        self.finishAfterClose(.failed(reason, isBusy: isBusy))
    }

    /// The close leaves with this turn of the loop: the program must not end before it.
    private func finishAfterClose(_ outcome: Outcome) {
        guard self.client?.isClosing ?? false else { return self.finish(outcome) }
        self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(20)) { [weak self] in self?.finish(outcome) }
    }

    private func noAnswer() {
        let sidecar = self.configuration.sidecar
        if self.keysDiffer {
            self.fail(
                "The preshared keys differ: give both sides the same --preshared-key-file, or neither of them one."
            )
        } else if let lastDialFailure = self.lastDialFailure {
            self.fail("\(lastDialFailure). Check the address, and that the sidecar runs.")
        } else {
            self.fail(
                """
                No answer from the sidecar at \(sidecar) for 10 s. Either the address isn't a sidecar's, or its public key \
                is another one, or it doesn't accept the key \(self.configuration.tunnel.staticKey.publicKey) (its --peer), \
                or this machine's clock is wrong, or it speaks another version.
                """
            )
        }
    }

    // MARK: Ending

    /// Withdraws the intercept, lets open connections end within the drain time, and is done.
    public func shutDown() {
        guard !self.isEnding else { return }
        self.isEnding = true
        self.startTimeout?.cancel()
        guard self.isStarted, self.client?.withConnection({ $0.hasCarrier }) ?? false else {
            self.client?.close(.done)
            return self.finishAfterClose(.ended)
        }
        self.log.info("ending: new connections reach the original", metadata: ["open": "\(self.connections.count)"])
        self.send(.stop)
        // The sidecar resets what is open after the drain time, and says so; some more for the way there and back.
        let limit = TimeAmount.seconds(Int64(self.configuration.drainSeconds) + 3)
        self.endTimeout = self.eventLoop.assumeIsolated().scheduleTask(in: limit) { [weak self] in
            self?.client?.close(.done)
            self?.finishAfterClose(.ended)
        }
    }

    // MARK: Control

    private func begin() {
        self.decoder = ControlMessageDecoder()
        let stream = self.client?.withConnection { $0.openStream() } ?? nil
        guard stream == .control else {
            return self.fail("The sidecar allows no control stream: it isn't one of ours.")
        }
        self.sendStart()
    }

    private func sendStart() {
        guard !self.isEnding else { return self.send(.stop) }
        var start = ControlMessage.Start(
            generation: Self.generation,
            workspace: self.configuration.label,
            ports: self.configuration.mappings.map(\.service)
        )
        start.onUnavailable = self.configuration.onUnavailable
        start.probes = self.configuration.probes
        start.drainSeconds = self.configuration.drainSeconds
        // Once: what somebody took back isn't taken again without a person's wish.
        start.takeover = self.configuration.takesOver && !self.isStarted
        self.send(.start(start))
    }

    private func send(_ message: ControlMessage) {
        var bytes = ByteBuffer()
        message.encode(into: &bytes)
        _ = self.client?.withConnection { $0.write(bytes, to: .control) }
    }

    private func readControl() {
        while case .bytes(let bytes) = self.client?.withConnection({ $0.read(.control) }) {
            self.decoder.append(bytes)
            do throws(ControlError) {
                loop: while true {
                    switch try self.decoder.next() {
                    case .message(let message): self.receive(message)
                    case .refused, .needsMore: break loop
                    }
                }
            } catch {
                self.log.error("closing the connection: \(error)")
                self.client?.endConnection(.controlError)
                return
            }
        }
    }

    private func receive(_ message: ControlMessage) {
        switch message {
        case .started: self.started()
        case .failed(let failure): self.refusedBySidecar(failure)
        case .withdrawn(let holder?): self.takenOver(by: holder)
        case .withdrawn(nil) where self.newHolder != nil: break
        case .withdrawn(nil):
            // Asked for when we are ending; otherwise the sidecar had lost us, and wants to be asked again.
            if !self.isEnding { self.sendStart() }
        case .stopped(let total, let passed):
            guard self.isEnding else { return }
            self.log.info("ended", metadata: ["total": "\(total)", "passed": "\(passed)"])
            self.client?.close(.done)
            self.finishAfterClose(.ended)
        case .status, .start, .stop, .probe, .probed, .unknown: break
        }
    }

    private func started() {
        self.startTimeout?.cancel()
        guard !self.isStarted else { return }
        self.isStarted = true
        let roundTrip = self.client?.withConnection { $0.measuredRoundTripTime } ?? nil
        self.log.info("intercepting", metadata: ["sidecar": "\(self.configuration.sidecar)"])
        self.onOutcome?(.ready(roundTripTime: roundTrip))
    }

    private func refusedBySidecar(_ failure: ControlMessage.Failure) {
        switch failure.code {
        case .busy:
            let since = failure.since.map { " since \($0)" } ?? ""
            self.fail(
                """
                The service is intercepted by \(failure.holder ?? "someone else")\(since). Ask them to stop it, or take it \
                over with --takeover.
                """,
                isBusy: true
            )
        case .port, .unsupported, .internal: self.fail("The sidecar refused: \(failure.reason).")
        }
    }

    private func takenOver(by holder: String) {
        self.log.warning(
            "taken over by \(holder): open connections go on",
            metadata: ["open": "\(self.connections.count)"]
        )
        self.newHolder = holder
        self.failIfTakenOver()
    }

    /// What was open when somebody took the service over may end by itself; then there is nothing more to do here.
    private func failIfTakenOver() {
        guard let newHolder = self.newHolder, self.connections.isEmpty else { return }
        self.fail("The intercept was taken over by \(newHolder).", isBusy: true)
    }

    // MARK: Intercepted connections

    func target(for header: ConnectionHeader) -> DialTarget? {
        self.targets[ControlMessage.Port(service: header.servicePort, transport: header.transport)]
    }

    func localServerFailed(_ port: UInt16, _ error: any Error) {
        let now = NIODeadline.now()
        guard !self.saysServerIsMissing, now >= self.mayWarnAgainAt else { return }
        self.saysServerIsMissing = true
        // A server that comes and goes, or one that takes some connections and not others, is told of once a minute.
        self.mayWarnAgainAt = now + .minutes(1)
        let target = self.configuration.mappings.first { $0.service.service == port }?.target
        self.log.warning(
            "the local server can't be reached: until it can, the original answers",
            metadata: ["target": "\(target.map { "\($0)" } ?? "?")", "error": "\(Failure.describe(error))"]
        )
    }

    func localServerAnswered() {
        guard self.saysServerIsMissing else { return }
        self.saysServerIsMissing = false
        self.log.info("the local server answers now")
    }

    func streamIsDone(_ stream: StreamID) {
        self.connections[stream] = nil
        _ = self.client?.withConnection { $0.release(stream) }
        self.failIfTakenOver()
    }
}

/// The agent can't begin: what is wrong, and what to do.
public struct StartError: Error, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }
}

extension WorkspaceAgent: TunnelClient.Delegate {
    public func tunnelClient(_ client: TunnelClient, did event: Initiator.Event) {
        switch event {
        case .established:
            self.lastDialFailure = nil
            self.keysDiffer = false
            self.presence = .live
            self.begin()
        case .resumed:
            self.log.info("the tunnel is back on a new carrier")
            if self.newHolder == nil { self.sendStart() }
        case .presharedKeysDiffer:
            if !self.keysDiffer { self.log.warning("a response that doesn't open: the preshared keys differ") }
            self.keysDiffer = true
        case .closeCarrier: break
        case .connection(let event): self.handle(event)
        }
    }

    public func tunnelClient(_ client: TunnelClient, dialFailed reason: String, retryIn delay: TimeAmount) {
        let now = NIODeadline.now()
        if self.lastDialFailure != reason || now - self.dialFailureSaidAt >= .minutes(1) {
            self.log.warning("\(reason); trying again")
            self.dialFailureSaidAt = now
        }
        self.lastDialFailure = reason
    }

    private func handle(_ event: ConnectionEvent) {
        switch event {
        case .readable(.control): self.readControl()
        case .streamOpened(let id): self.connections[id] = LocalConnection(agent: self, stream: id)
        case .readable(let id): self.connections[id]?.streamIsReadable()
        case .writable(let id): self.connections[id]?.streamIsWritable()
        case .reset(let id, let code): self.connections[id]?.streamWasReset(code)
        case .stopped(let id, let code): self.connections[id]?.streamWasStopped(code)
        case .presence(let presence):
            if presence == .gone { self.log.warning("the sidecar doesn't answer: dialling again") }
            self.presence = presence
        case .ended(let end): self.ended(end)
        }
    }

    private func ended(_ end: ConnectionEnd) {
        for connection in self.connections.values { connection.streamEnded() }
        self.connections.removeAll()
        guard end.origin == .peer else { return }
        switch end.code {
        case .replaced:
            self.finish(
                .failed(
                    "Another program with the same key has taken this one's place. Give each its own key.",
                    isBusy: false
                )
            )
        case .revoked: self.finish(.failed("The sidecar no longer accepts this key.", isBusy: false))
        case .done: self.finish(.ended)
        default:
            if self.isEnding { return self.finish(.ended) }
            let metadata: Logger.Metadata = ["code": "\(end.code)", "reason": "\(end.reason.printable)"]
            self.log.warning("the sidecar ended the connection: dialling again", metadata: metadata)
        }
    }
}
