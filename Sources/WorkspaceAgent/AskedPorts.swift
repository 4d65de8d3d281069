import InterceptModel
import InterceptProtocol
import NIOCore

/// Which of the mapped ports this workspace asks the sidecar for: all except TCP ports whose local server isn't listening.
/// Those are left to the original, which then sees each client's own address if the kernel diverts.
///
/// ```
///   served ── a connection is refused ──▶ doubted ── and still is after 1 s ──▶ away: not asked for
///     │ ▲  ▲                                │                                     │
///     │ │  └────── something listens, or a connection is taken ───────────────────┘
///     │ └───────── a connection is taken ── silent: asked for still
///     └── a connection gets no answer ────────▲
/// ```
///
/// A value type: events go in with their time, and due actions come out.
struct AskedPorts {
    typealias Port = ServicePort

    /// A check, due now, whether a port's server is there; its result goes to `saw`.
    struct Look: Equatable {
        var port: Port
        /// Check the kernel's list of sockets, which the server doesn't notice.
        var atSockets: Bool
        /// Connect, if the list shows nothing: a firewall's rules may lead to a server that isn't in the list.
        var byConnecting: Bool
    }

    enum Finding: Equatable {
        case listens
        case refuses
        case unknown
    }

    private enum Server: Equatable {
        /// Connections have been refused since that time, and none accepted.
        case doubted(since: NIODeadline)
        case silent
        case away
    }

    private struct Watch {
        var server: Server
        var lookAt: NIODeadline
        var connectAt: NIODeadline
        var pause = AskedPorts.firstPause
    }

    /// How long connections must be refused before the port is left to the original.
    static let patience = TimeAmount.seconds(1)
    /// Each check costs a few system calls; a server that is back waits at most this long for its clients. †
    static let lookEvery = TimeAmount.milliseconds(250)
    /// The first and the longest pause between test connections; each pause is twice the one before. †
    static let firstPause = TimeAmount.seconds(1)
    static let longestPause = TimeAmount.seconds(30)
    /// The minimum time between two lists of ports.
    static let restsFor = TimeAmount.seconds(1)
    /// The minimum time after the sidecar has refused a list. †
    static let restsAfterRefusal = TimeAmount.seconds(10)

    /// In the order of their mappings.
    private let ports: [Port]
    /// False: clients are refused while the workspace can't serve them, so all ports are asked for always.
    private let leavesToOriginal: Bool
    /// The ports whose server doesn't answer.
    private var watches: [Port: Watch] = [:]
    /// The ports left out of the last list, and of the one before.
    private var left: Set<Port> = []
    private var leftBefore: Set<Port> = []
    private var restsUntil: NIODeadline

    /// - Parameter doubted: the ports that refused connections until now, and are checked anew.
    init(_ ports: [Port], leavesToOriginal: Bool, doubted: Set<Port> = [], at now: NIODeadline) {
        self.ports = ports
        self.leavesToOriginal = leavesToOriginal
        self.restsUntil = now + Self.restsFor
        for port in doubted { self.refused(port, at: now) }
    }

    /// The ports to ask the sidecar for.
    var asked: [Port] { self.ports.filter { !self.left.contains($0) } }

    /// The mapped ports that aren't asked for.
    var absent: [Port] { self.ports.filter { self.left.contains($0) } }

    /// The ports that refuse connections.
    var refusing: Set<Port> { Set(self.watches.filter { $0.value.server != .silent }.keys) }

    // MARK: What happens

    mutating func refused(_ port: Port, at now: NIODeadline) {
        guard self.canBeWatched(port) else { return }
        switch self.watches[port]?.server {
        case nil, .silent:
            self.watches[port] = Watch(
                server: .doubted(since: now),
                lookAt: now + Self.lookEvery,
                connectAt: now + Self.patience
            )
        case .doubted, .away: break
        }
    }

    /// A connection got no answer in time, or failed in another way.
    mutating func failed(_ port: Port, at now: NIODeadline) {
        guard self.canBeWatched(port), self.watches[port] == nil else { return }
        // A listening socket proves nothing here, so only connections are tried.
        self.watches[port] = Watch(server: .silent, lookAt: .distantFuture, connectAt: now + Self.firstPause)
    }

    /// Whether a UDP server is there can't be checked.
    private func canBeWatched(_ port: Port) -> Bool { port.transport == .tcp && self.ports.contains(port) }

    /// - Returns: whether it was thought to be away.
    @discardableResult
    mutating func answered(_ port: Port) -> Bool { self.watches.removeValue(forKey: port) != nil }

    /// The result of a check.
    mutating func saw(_ finding: Finding, at port: Port, _ now: NIODeadline) {
        switch finding {
        case .listens: self.answered(port)
        case .unknown: break
        case .refuses:
            guard case .doubted(let since) = self.watches[port]?.server, now - since >= Self.patience else { return }
            self.watches[port]?.server = .away
        }
    }

    /// A new connection's sidecar knows no earlier lists: it is asked for all ports first.
    mutating func beginAnew(at now: NIODeadline) {
        self = AskedPorts(self.ports, leavesToOriginal: self.leavesToOriginal, doubted: self.refusing, at: now)
    }

    /// The sidecar has refused the last list: the one before stays in force.
    mutating func wasRefused(at now: NIODeadline) {
        self.left = self.leftBefore
        self.restsUntil = now + Self.restsAfterRefusal
    }

    // MARK: What is due

    private var wantedLeft: Set<Port> {
        self.leavesToOriginal ? Set(self.watches.filter { $0.value.server == .away }.keys) : []
    }

    /// When the next check or list is due if nothing else happens.
    ///
    /// - Parameter mayAsk: whether the sidecar has answered the last list and may be sent another.
    func nextDeadline(mayAsk: Bool) -> NIODeadline? {
        let look = self.watches.values.map { min($0.lookAt, $0.connectAt) }.min()
        guard mayAsk, self.wantedLeft != self.left else { return look }
        return min(look ?? self.restsUntil, self.restsUntil)
    }

    mutating func looksDue(at now: NIODeadline) -> [Look] {
        self.ports.compactMap { port in
            guard var watch = self.watches[port] else { return nil }
            let look = Look(port: port, atSockets: watch.server != .silent, byConnecting: now >= watch.connectAt)
            guard now >= watch.lookAt || look.byConnecting else { return nil }
            if look.atSockets { watch.lookAt = now + Self.lookEvery }
            if look.byConnecting {
                watch.connectAt = now + watch.pause
                watch.pause = min(watch.pause * 2, Self.longestPause)
            }
            self.watches[port] = watch
            return look
        }
    }

    /// The next list of ports, if one is due.
    mutating func listDue(at now: NIODeadline) -> [Port]? {
        let wanted = self.wantedLeft
        guard wanted != self.left, now >= self.restsUntil else { return nil }
        self.leftBefore = self.left
        self.left = wanted
        self.restsUntil = now + Self.restsFor
        return self.asked
    }
}
