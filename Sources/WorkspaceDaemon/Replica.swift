import Carriers
import CommandText
import Environments
import HostSupport
import InterceptModel
import InterceptProtocol
import NIOCore
import Noise
import Tunnel
import WorkspaceAPI
import WorkspaceAgent

/// One sidecar of an intercepted service, and this workspace's agent for it.
@DaemonLoop
final class Replica {
    private(set) var location: SidecarLocation
    private var firstAddress: TunnelClient.Address
    let agent: WorkspaceAgent
    let since = NIODeadline.now()
    /// Set once the agent has ended.
    private(set) var outcome: WorkspaceAgent.Outcome?
    /// The last generation (list of ports) that the sidecar refused, and why.
    private(set) var refusal: (generation: UInt64, failure: ControlMessage.Failure)?
    /// The sidecar has confirmed that new connections reach the original.
    private(set) var isWithdrawn = false

    enum Change: Equatable {
        case any
        /// The carrier is lost: the sidecar may have another address or key now.
        case lost
        case takenOver(by: String)
        case ended
    }

    /// Nil if the sidecar's key or address can't be read.
    /// - Parameter location: as the environment reports it.
    init?(
        _ location: SidecarLocation,
        _ addresses: [TunnelClient.Address],
        _ configuration: (PublicKey, [TunnelClient.Address]) -> WorkspaceAgent.Configuration
    ) {
        guard let key = PublicKey(base64: location.publicKey), let first = addresses.first else { return nil }
        self.location = location
        self.firstAddress = first
        self.agent = WorkspaceAgent(configuration(key, addresses), eventLoop: DaemonLoop.eventLoop)
    }

    func start(_ onChange: @escaping (Replica, Change) -> Void) {
        self.agent.onEvent = { [weak self] event in
            guard let self else { return }
            switch event {
            case .changed, .started: onChange(self, .any)
            case .carrierLost: onChange(self, .lost)
            case .refused(let generation, let failure):
                self.refusal = (generation, failure)
                onChange(self, .any)
            case .withdrawn:
                self.isWithdrawn = true
                onChange(self, .any)
            case .takenOver(let holder): onChange(self, .takenOver(by: holder))
            }
        }
        self.agent.start { [weak self] outcome in
            guard let self else { return }
            if case .ready = outcome { return onChange(self, .any) }
            self.outcome = outcome
            onChange(self, .ended)
        }
    }

    func isAt(_ location: SidecarLocation) -> Bool {
        self.location.publicKey == location.publicKey && self.location.tcp == location.tcp
            && self.location.udp == location.udp
            && self.location.command == location.command && self.location.container == location.container
    }

    /// The same sidecar, of which other things may be known by now.
    func update(_ location: SidecarLocation) { self.location = location }

    /// Takes over what the same sidecar calls the service's ports now. False: there is nothing new.
    func rename(as location: SidecarLocation) -> Bool {
        guard self.location.publicKey == location.publicKey, self.location.ports != location.ports else { return false }
        self.location.ports = location.ports
        return true
    }

    /// If it is the same sidecar under other addresses, its tunnel moves there and open connections go on. False: it is
    /// another sidecar.
    func move(to location: SidecarLocation, _ addresses: [TunnelClient.Address]) -> Bool {
        guard self.location.publicKey == location.publicKey, let first = addresses.first else { return false }
        self.location = location
        self.firstAddress = first
        self.agent.dial(instead: addresses)
        return true
    }

    /// Its state for the intercept's state machine.
    func state(_ generation: UInt64) -> InterceptMachine.Replica {
        if self.outcome != nil { return .down("the tunnel has ended") }
        let snapshot = self.agent.snapshot
        if snapshot.isInForce(generation) { return .acknowledged }
        if snapshot.isConnected, snapshot.presence != .gone { return .asked }
        return .down(snapshot.problem ?? "the tunnel is down")
    }

    func status(_ generation: UInt64, isStarting: Bool) -> SidecarStatus {
        let snapshot = self.agent.snapshot
        let address = snapshot.address ?? self.firstAddress
        var status = SidecarStatus(
            name: self.location.name,
            phase: isStarting ? .pending : .degraded,
            publicKey: self.location.publicKey,
            carrier: .init(address),
            address: "\(address)",
            listens: self.location.listens
        )
        status.originalSees = self.location.originalSees
        switch self.state(generation) {
        case .acknowledged: status.phase = .active
        case .asked: break
        case .down(let reason): status.reason = reason
        }
        if self.outcome == nil, snapshot.isConnected {
            status.rttMs = snapshot.roundTripTime.map { Double(max(1, $0.nanoseconds / 1_000)) / 1_000 }
            status.handshakeAgeSeconds = snapshot.handshakeAge.map { Double($0.nanoseconds / 1_000_000) / 1_000 }
            status.messagesSent = snapshot.messagesSent
            status.messagesLost = snapshot.messagesLost
            status.mtu = snapshot.pathMTU
            status.carrierChanges = snapshot.carrierChanges
        }
        return status
    }
}

extension SidecarLocation {
    /// The addresses at which the sidecar may be dialled, in order of preference.
    /// - Parameters:
    ///   - endpoint: dialled in place of the sidecar's own addresses.
    ///   - relay: dialled in place of the sidecar's command.
    func addresses(
        by carrier: CarrierChoice,
        at endpoint: Endpoint?,
        through relay: StreamRelay?
    ) -> [TunnelClient.Address] {
        var addresses: [TunnelClient.Address] = []
        // With `auto`, an address given by --endpoint is taken as a TCP address: a forwarded port, for example, leads
        // nowhere over UDP.
        if carrier == .udp || (carrier == .auto && endpoint == nil),
            let udp = endpoint ?? self.udp.flatMap({ try? Flags.endpoint($0) })
        {
            addresses.append(.udp(host: udp.host, port: Int(udp.port)))
        }
        if carrier == .auto || carrier == .tcp, let tcp = endpoint ?? (try? Flags.endpoint(self.tcp)) {
            addresses.append(.tcp(host: tcp.host, port: Int(tcp.port)))
        }
        if carrier == .auto || carrier == .exec {
            if let relay {
                addresses.append(.relay(relay))
            } else if let command = self.command, !command.isEmpty {
                addresses.append(.command(command))
            }
        }
        return addresses
    }
}

extension SidecarStatus.Carrier {
    init(_ address: TunnelClient.Address) {
        switch address {
        case .udp: self = .udp
        case .tcp: self = .tcp
        case .command, .relay: self = .exec
        }
    }
}
