import InterceptModel
import InterceptProtocol

/// What a workspace asks a sidecar for, by `start` or by `mirror`: each replaces the one before.
struct Holding: Equatable {
    var kind: HoldingKind
    var generation: UInt64
    var ports: [ServicePort]
    /// See `ControlMessage.Start.absent`.
    var absent: [ServicePort]? = []
    var onUnavailable = OnUnavailable.original
    /// The time that open connections get at the start and at the end. A copy gets none: no client waits for its answer.
    var drainSeconds = 0
    var probes: Probes
    var proxyProtocol: ProxyProtocol?

    init(_ start: ControlMessage.Start) {
        self.kind = .intercept
        self.generation = start.generation
        self.ports = start.ports
        self.absent = start.absent
        self.onUnavailable = start.onUnavailable
        self.drainSeconds = start.drainSeconds
        self.probes = start.probes
        self.proxyProtocol = start.proxyProtocol
    }

    init(_ mirror: ControlMessage.Mirror) {
        self.kind = .mirror
        self.generation = mirror.generation
        self.ports = mirror.ports
        self.probes = mirror.probes
        self.proxyProtocol = mirror.proxyProtocol
    }

    /// The ports that other keys can't intercept.
    var claimed: [ServicePort] { self.ports + (self.absent ?? []) }

    /// Clients come to the sidecar on these ports even while the workspace isn't served: it refuses them.
    var refuses: Bool { self.kind == .intercept && self.onUnavailable == .refuse }

    var takesProbes: Bool { self.probes == .workspace }

    var tcpPorts: Set<UInt16> { Set(self.ports.lazy.filter { $0.transport == .tcp }.map(\.number)) }
}
