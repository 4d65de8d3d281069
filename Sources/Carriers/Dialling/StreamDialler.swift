import HostSupport
import Libc
import NIOCore
import NIOPosix
import Noise
import Tunnel

/// Dials a sidecar's byte streams, over TCP, through a command or through a relay, as `StreamDialMachine` says.
final class StreamDialler: Dialler {
    private let tunnel: DialledTunnel
    private let maxMessageSize: Int
    private var machine: StreamDialMachine
    private var carriers: [StreamCarrier] = []
    private var redial: Scheduled<Void>?

    /// How long a command whose output has ended may take to exit by itself: its exit code and last words say why it failed.
    private static let ownEnd = TimeAmount.milliseconds(200)

    init(_ addresses: [TunnelClient.Address], _ tunnel: DialledTunnel, maxMessageSize: Int, random: RandomSource) {
        self.tunnel = tunnel
        self.maxMessageSize = maxMessageSize
        self.machine = StreamDialMachine(addresses.filter { !$0.isDatagrams }, random: random)
    }

    /// The address of an open carrier, or of the one that was answered last.
    var address: TunnelClient.Address? {
        self.carriers.lazy.compactMap(\.address).first ?? self.machine.answeredAddress
    }

    func start() { self.handle(.start) }

    func stop() { self.handle(.stop) }

    func closeCarriers() { for carrier in self.carriers { self.close(carrier.id) } }

    func use(_ addresses: [TunnelClient.Address]) { self.handle(.addresses(addresses.filter { !$0.isDatagrams })) }

    func networkChanged() { self.handle(.networkChanged) }

    func streamIsNeeded() { self.handle(.streamIsNeeded) }

    func answered(_ id: CarrierID) { self.handle(.answered(id)) }

    func giveUp(_ id: CarrierID) {
        // A command or relay is ended by this side; over TCP the sidecar may have closed first.
        if let carrier = self.carrier(id), carrier.relay != nil { self.blameSilence(on: carrier) }
        self.close(id)
    }

    func pump(at now: Instant) {
        for carrier in self.carriers {
            carrier.pump { self.tunnel.initiator.writeNext(into: &$0, for: carrier.id, at: now) }
        }
    }

    // MARK: What the machine says

    private func handle(_ event: StreamDialMachine.Event) {
        for action in self.machine.handle(event, at: Clock.now()) { self.perform(action) }
    }

    /// - Parameter closed: the carrier whose end this follows.
    private func perform(_ action: StreamDialMachine.Action, closed: StreamCarrier? = nil) {
        switch action {
        case .dial(let address, let limit): self.dial(address, within: limit)
        case .wait(let pause):
            self.redial?.cancel()
            self.redial = self.after(pause) { $0.handle(.waited) }
        case .stopWaiting: self.redial?.cancel()
        case .limit(let id, let limit): _ = self.after(limit) { $0.handle(.limitReached(id)) }
        case .giveUp(let id):
            if let carrier = self.carrier(id) { self.blameSilence(on: carrier) }
            self.close(id)
        case .close(let id): self.close(id)
        case .explain: if let closed { self.explain(closed) }
        case .report(let failures, let delay): self.tunnel.report(failures, retryIn: delay)
        case .lost: if !self.tunnel.isConnected { self.tunnel.owner?.lostLastStream() }
        }
    }

    private func after(_ delay: TimeAmount, _ body: @escaping (StreamDialler) -> Void) -> Scheduled<Void> {
        self.tunnel.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            if let self { body(self) }
        }
    }

    private func carrier(_ id: CarrierID) -> StreamCarrier? { self.carriers.first { $0.id == id } }

    private func blameSilence(on carrier: StreamCarrier) {
        if carrier.fault == nil { carrier.fault = carrier.address.map { .silent($0) } }
    }

    private func close(_ id: CarrierID) {
        guard let carrier = self.carrier(id) else { return }
        carrier.framer.discard()
        carrier.channel.close(promise: nil)
    }

    /// No other address is dialled until a command or relay has ended, so there is never more than one.
    private func explain(_ carrier: StreamCarrier) {
        guard let address = carrier.address else { return }
        guard let relay = carrier.relay else { return self.handle(.failed(carrier.fault ?? .closed(address))) }
        relay.end(after: carrier.fault == nil ? Self.ownEnd : .zero) { [weak self] reason in
            self?.handle(.failed(carrier.fault ?? .relayEnded(address, why: reason)))
        }
    }

    // MARK: Dialling

    private func dial(_ address: TunnelClient.Address, within limit: TimeAmount) {
        switch address {
        case .tcp(let host, let port): self.connect(address, host, port, within: limit)
        case .command(let words): self.run(address, words)
        case .relay(let relay): self.open(address, relay)
        // `use` has left these out.
        case .udp: self.handle(.failed(.silent(address)))
        }
    }

    private func connect(_ address: TunnelClient.Address, _ host: String, _ port: Int, within limit: TimeAmount) {
        let bound = NIOLoopBound(self, eventLoop: self.tunnel.eventLoop)
        self.bootstrap
            .connectTimeout(limit)
            .carrierSocketOptions()
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try bound.value.attach(channel, to: address) }
            }
            .connect(host: host, port: port)
            .assumeIsolated()
            .whenComplete { [weak self] result in
                guard let self, case .failure(let error) = result else { return }
                self.handle(.failed(.unreachable(address, why: SocketError.describe(error))))
            }
    }

    private func run(_ address: TunnelClient.Address, _ words: [String]) {
        let (process, socket): (FilterProcess, CInt)
        do throws(HostError) {
            (process, socket) = try FilterProcess.start(words, on: self.tunnel.eventLoop)
        } catch {
            return self.handle(.failed(.notStarted(address, error)))
        }
        let bound = NIOLoopBound((self, process), eventLoop: self.tunnel.eventLoop)
        self.bootstrap
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let (dialler, process) = bound.value
                    try dialler.attach(channel, to: address, by: process)
                }
            }
            .withConnectedSocket(socket)
            .assumeIsolated()
            .whenComplete { [weak self] result in
                guard case .failure(let error) = result else { return }
                process.end { _ in self?.handle(.failed(.unreachable(address, why: SocketError.describe(error)))) }
            }
    }

    private func open(_ address: TunnelClient.Address, _ relay: StreamRelay) {
        let opening = StreamRelay.Opening(
            attach: { [weak self] channel, stream in
                guard let self else { throw ChannelError.eof }
                try channel.syncOptions?.setOption(.recvAllocator, value: CarrierOptions.receiveAllocator)
                try channel.syncOptions?.setOption(.writeBufferWaterMark, value: CarrierOptions.waterMark)
                try self.attach(channel, to: address, by: stream)
            },
            failed: { [weak self] reason in self?.handle(.failed(.unreachable(address, why: reason))) }
        )
        relay.open(on: self.tunnel.eventLoop, opening)
    }

    private var bootstrap: ClientBootstrap {
        ClientBootstrap(group: self.tunnel.eventLoop)
            .channelOption(.recvAllocator, value: CarrierOptions.receiveAllocator)
            .channelOption(.writeBufferWaterMark, value: CarrierOptions.waterMark)
    }

    private func attach(
        _ channel: any Channel,
        to address: TunnelClient.Address,
        by relay: (any RelayedStream)? = nil
    ) throws {
        let carrier = StreamCarrier(
            id: self.tunnel.takeCarrierID(),
            channel: channel,
            framer: MessageFramer(role: .initiator, maxMessageSize: self.maxMessageSize),
            address: address,
            relay: relay
        )
        try channel.pipeline.syncOperations.addHandler(StreamCarrierHandler(carrier: carrier, owner: self))
    }
}

extension StreamDialler: StreamCarrierHandler.Owner {
    func carrierOpened(_ carrier: StreamCarrier) {
        guard let address = carrier.address else { return }
        if carrier.relay == nil, SelfConnection.closes(carrier.channel) {
            let error = IOError(errnoCode: ECONNREFUSED, reason: "connect")
            return self.handle(.failed(.unreachable(address, why: SocketError.describe(error))))
        }
        let now = Clock.now()
        let actions = self.machine.handle(.opened(carrier.id, address), at: now)
        if self.machine.has(carrier.id) {
            self.carriers.append(carrier)
            self.tunnel.initiator.carrierOpened(carrier.id, at: now)
            self.tunnel.owner?.pump()
        } else {
            carrier.relay?.end(after: .zero) { _ in }
            carrier.channel.close(promise: nil)
        }
        for action in actions { self.perform(action) }
    }

    func carrierHasRead(_ carrier: StreamCarrier) -> Bool {
        let now = Clock.now()
        let taken = carrier.take { message in
            _ = self.tunnel.initiator.receive(message, from: carrier.id, at: now)
            return 1 + self.tunnel.initiator.framesInLastMessage
        }
        if case .violation = taken {
            carrier.fault = carrier.address.map { .speaksOtherwise($0) }
            self.close(carrier.id)
        }
        if case .turnIsOver = taken { return false }
        return true
    }

    func carrierReadComplete(_ carrier: StreamCarrier) { self.tunnel.owner?.pump() }

    func carrierBecameWritable(_ carrier: StreamCarrier) { self.tunnel.owner?.pump() }

    func carrierClosed(_ carrier: StreamCarrier) {
        let now = Clock.now()
        self.carriers.removeAll { $0 === carrier }
        self.tunnel.initiator.carrierClosed(carrier.id, at: now)
        self.tunnel.owner?.pump()
        let rest = self.tunnel.hasConnection ? nil : self.tunnel.errorPauses.current
        let actions = self.machine.handle(.closed(carrier.id, rest: rest), at: now)
        for action in actions { self.perform(action, closed: carrier) }
        guard !actions.contains(.explain(carrier.id)) else { return }
        carrier.relay?.end(after: self.machine.isOn && carrier.fault == nil ? Self.ownEnd : .zero) { _ in }
    }
}
