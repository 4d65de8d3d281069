import NIOCore
import Noise

/// What a responder keeps for one accepted key. All of it is bounded: see `Constants`.
final class AcceptedPeer {
    let key: PublicKey
    var presharedKey: PresharedKey
    var greatestTimestamp: TAI64N?
    /// Counts the initiations that were answered in this second.
    var rate = RateLimit(perSecond: Constants.initiationsPerSecond)
    /// Sessions that no data message has confirmed yet, oldest first.
    var unconfirmed: [ResponderSession] = []
    /// Connections that begin once a session is confirmed: the id in the response, and the unknown id that the initiation
    /// named.
    var expected: [ExpectedConnection] = []
    var current: Link?
    /// Earlier connections in their closing period, which still answer with CONNECTION_CLOSE.
    var closing: [Link] = []

    init(key: PublicKey, presharedKey: PresharedKey) {
        self.key = key
        self.presharedKey = presharedKey
    }

    /// Breaks the reference cycles through this object, so that the keys are erased.
    func letGo() {
        self.unconfirmed.removeAll()
        self.current?.letGo()
        self.current = nil
        for link in self.closing { link.letGo() }
        self.closing.removeAll()
    }
}

struct ExpectedConnection {
    let id: ConnectionID
    let askedAs: ConnectionID
    let madeAt: Instant
}

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

    var usesDatagrams: Bool { self.path.map { $0.id == self.connection.carrier } ?? false }

    func letGo() {
        for entry in self.sessions { entry.link = nil }
        self.sessions.removeAll()
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

/// Where a peer's datagrams come from, and which of our addresses they were sent to: answers leave from that one.
public struct DatagramRoute: Hashable, Sendable {
    public var remote: PathAddress
    public var local: PathAddress?

    public init(remote: PathAddress, local: PathAddress? = nil) {
        self.remote = remote
        self.local = local
    }
}

/// RFC 9000 §8.2: an address that is being validated.
struct PathCandidate {
    let route: DatagramRoute
    /// The session of the message that came from there: the connection may not have one yet.
    let session: Session
    let data: UInt64
    let since: Instant
    var sent = 0
    /// When the next PATH_CHALLENGE is due; nil: as soon as a message can be sent.
    var sendAt: Instant?
    var bytesReceived: Int
    var bytesSent = 0
}

/// Allows `perSecond` events in a second. A second begins with its first event.
struct RateLimit {
    let perSecond: Int
    private var second: Instant?
    private var count = 0

    init(perSecond: Int) { self.perSecond = perSecond }

    mutating func allows(at now: Instant) -> Bool {
        if let second = self.second, now >= second, now - second < .seconds(1) {
            guard self.count < self.perSecond else { return false }
        } else {
            self.second = now
            self.count = 0
        }
        self.count += 1
        return true
    }
}

extension Responder {
    /// A byte stream. It counts as a stranger's until a valid initiation has come on it.
    struct Carrier {
        let id: CarrierID
        let openedAt: Instant
        /// When the stream is closed, unless the valid message that the responder waits for has come.
        var closeAt: Instant?
        var isKnown = false
        /// Initiations admitted on this stream before it carried a connection: a stranger's stream may have only a few.
        var openings = 0
        var openedLastAt: Instant?
        /// An initiation that waits for its turn at the handshake budget.
        var waiting: ByteBuffer?
        var link: Link?
        /// The peer whose initiation was answered on this stream, until the stream belongs to a connection.
        var asker: AcceptedPeer?
        /// Responses that wait to be sent, at most one for each session that may be unconfirmed.
        var outbox: [ByteBuffer] = []
    }
}
