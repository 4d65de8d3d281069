import InterceptProtocol
import NIOCore

/// Which of the mapped ports the sidecar is asked for: all but those of TCP behind which nothing listens. These it leaves to
/// the original, which then sees each client's own address where the kernel diverts.
///
/// ```
///   served ── a connection is refused ──▶ doubted ── and still is after 1 s ──▶ away: not asked for
///     │ ▲  ▲                                │                                     │
///     │ │  └────── something listens, or a connection is taken ───────────────────┘
///     │ └───────── a connection is taken ── silent: asked for still
///     └── a connection gets no answer ────────▲
/// ```
///
/// A value: what happens goes in with its time, and what is to be done comes out.
struct AskedPorts {
    typealias Port = ControlMessage.Port

    /// To see whether a port's server is there; what comes of it is told by `saw`.
    struct Look: Equatable {
        var port: Port
        /// By the kernel's list of sockets, which the server doesn't notice.
        var atSockets: Bool
        /// By a connection, where the list shows nothing: a firewall's rules may lead to a server that isn't in it.
        var byConnecting: Bool
    }

    enum Finding: Equatable {
        case listens
        case refuses
        case unknown
    }

    private enum Server: Equatable {
        /// Refused first at that time, and nothing taken since.
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

    /// How long connections are refused before the original has them.
    static let patience = TimeAmount.seconds(1)
    /// Each look is a few system calls; so long, at most, a server that has come back waits for its clients. †
    static let lookEvery = TimeAmount.milliseconds(250)
    /// Between connections, from the first to the last; each is twice the one before. †
    static let firstPause = TimeAmount.seconds(1)
    static let longestPause = TimeAmount.seconds(30)
    /// Between two lists.
    static let restsFor = TimeAmount.seconds(1)
    /// After the sidecar has refused one. †
    static let restsAfterRefusal = TimeAmount.seconds(10)

    /// In the order in which they were mapped.
    private let ports: [Port]
    /// False: clients are refused where the workspace can't answer, so all ports stay asked for.
    private let leavesToOriginal: Bool
    /// The ports that aren't served.
    private var watches: [Port: Watch] = [:]
    /// Not asked for by the last list, and by the one before.
    private var left: Set<Port> = []
    private var leftBefore: Set<Port> = []
    private var restsUntil: NIODeadline

    /// - Parameter doubted: what refused connections until now, and is looked at anew.
    init(_ ports: [Port], leavesToOriginal: Bool, doubted: Set<Port> = [], at now: NIODeadline) {
        self.ports = ports
        self.leavesToOriginal = leavesToOriginal
        self.restsUntil = now + Self.restsFor
        for port in doubted { self.refused(port, at: now) }
    }

    /// What the sidecar is asked for.
    var asked: [Port] { self.ports.filter { !self.left.contains($0) } }

    /// What refuses connections.
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
        // That something listens there is no news of it.
        self.watches[port] = Watch(server: .silent, lookAt: .distantFuture, connectAt: now + Self.firstPause)
    }

    /// Whether a server of UDP is there can't be seen.
    private func canBeWatched(_ port: Port) -> Bool { port.transport == .tcp && self.ports.contains(port) }

    mutating func answered(_ port: Port) { self.watches[port] = nil }

    /// What a look, or the connection that followed it, has shown.
    mutating func saw(_ finding: Finding, at port: Port, _ now: NIODeadline) {
        switch finding {
        case .listens: self.answered(port)
        case .unknown: break
        case .refuses:
            guard case .doubted(let since) = self.watches[port]?.server, now - since >= Self.patience else { return }
            self.watches[port]?.server = .away
        }
    }

    /// The sidecar knows nothing of the lists before: it is asked for all ports first.
    mutating func beginAnew(at now: NIODeadline) {
        self = AskedPorts(self.ports, leavesToOriginal: self.leavesToOriginal, doubted: self.refusing, at: now)
    }

    /// The sidecar has refused the last list: the one before it is in force.
    mutating func wasRefused(at now: NIODeadline) {
        self.left = self.leftBefore
        self.restsUntil = now + Self.restsAfterRefusal
    }

    // MARK: What is to be done

    private var wantedLeft: Set<Port> {
        self.leavesToOriginal ? Set(self.watches.filter { $0.value.server == .away }.keys) : []
    }

    /// When something is to be done, should nothing happen until then.
    ///
    /// - Parameter mayAsk: the sidecar has answered the last list, so it may be sent another.
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

    /// Another list, once it is due.
    mutating func listDue(at now: NIODeadline) -> [Port]? {
        let wanted = self.wantedLeft
        guard wanted != self.left, now >= self.restsUntil else { return nil }
        self.leftBefore = self.left
        self.left = wanted
        self.restsUntil = now + Self.restsFor
        return self.asked
    }
}
