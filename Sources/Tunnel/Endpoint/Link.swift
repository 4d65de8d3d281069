import NIOCore

/// A responder's connection with its sessions, carriers and path.
public final class Link {
    let peer: AcceptedPeer
    /// The unknown id in the first initiation: other initiations that name it get the same connection.
    let secondName: ConnectionID
    var connection: Connection
    var sessions: [ResponderSession] = []
    var carriers: [CarrierID] = []
    /// The validated datagram path, and its number as a carrier. Exclusivity checks are off here and for `candidate`: both
    /// are read for each message, and only the responder uses them, on one link at a time.
    @exclusivity(unchecked) var path: (route: DatagramRoute, id: CarrierID)?
    /// An address that the newest message came from and that is being validated: until then everything goes to the old path.
    @exclusivity(unchecked) var candidate: PathCandidate?
    var challengedAt: Instant?
    /// Read for each datagram, as the two above.
    @exclusivity(unchecked) var part = DatagramTurn.Part()
    /// The owner has taken this connection's `.established` event.
    var isAnnounced = false
    /// A PING on the standby byte stream has told the initiator that our datagrams stay unacknowledged.
    var isNudged = false
    /// Separate limits for initiations on the connection's byte streams and in datagrams from its address: the latter can be
    /// spoofed.
    var handshakes = RateLimit(perSecond: Constants.initiationsPerSecond)
    var datagramHandshakes = RateLimit(perSecond: Constants.initiationsPerSecond)

    init(peer: AcceptedPeer, secondName: ConnectionID, connection: consuming Connection) {
        self.peer = peer
        self.secondName = secondName
        self.connection = connection
    }

    /// Runs the body on the connection; nil: it has ended.
    public func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? {
        guard self.peer.current === self else { return nil }
        return body(&self.connection)
    }

    /// Whether this session belongs to the connection, or would once it is confirmed.
    func owns(_ entry: ResponderSession) -> Bool {
        if let link = entry.link { return link === self }
        return entry.peer === self.peer && entry.answered == self.connection.id
    }

    /// The path in use; nil: the peer's messages come over a byte stream.
    public var datagramRoute: DatagramRoute? { self.usesDatagrams ? self.path?.route : nil }

    var usesDatagrams: Bool { self.path.map { $0.id == self.connection.carrier } ?? false }

    /// The connection is over. Its keys don't stay with this link, which sockets may hold longer than the responder does.
    func letGo() {
        for entry in self.sessions { entry.link = nil }
        self.sessions.removeAll()
        self.candidate = nil
        self.connection.wipe()
    }
}

/// A session at the responder, with its peer, its connection and where its response was sent.
final class ResponderSession {
    let session: Session
    let peer: AcceptedPeer
    /// Where the response was sent.
    let origin: Origin
    let answered: ConnectionID
    /// nil until a data message of the session has opened.
    var link: Link?
    /// The response went to an address that the connection's path has left: a message from there must be validated again.
    var originIsLeft = false

    init(session: Session, peer: AcceptedPeer, origin: Origin, answered: ConnectionID) {
        self.session = session
        self.peer = peer
        self.origin = origin
        self.answered = answered
    }
}

/// Where a message came from.
enum Origin: Hashable {
    case stream(CarrierID)
    case datagrams(DatagramRoute)
}
