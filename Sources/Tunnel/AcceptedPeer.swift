import NIOCore
import Noise

/// What a responder keeps for one key that it accepts. All of it is bounded: see `Constants`.
final class AcceptedPeer {
    let key: PublicKey
    var presharedKey: PresharedKey
    var greatestTimestamp: TAI64N?
    /// Initiations answered in the present second.
    var rate = RateLimit(perSecond: Constants.initiationsPerSecond)
    /// Sessions that no data message has confirmed, oldest first.
    var unconfirmed: [ResponderSession] = []
    /// Connections that would begin with the next confirmation: the answered id, and the unknown id that asked.
    var expected: [ExpectedConnection] = []
    var current: Link?
    /// Earlier connections that still tell their peer why they ended.
    var closing: [Link] = []

    init(key: PublicKey, presharedKey: PresharedKey) {
        self.key = key
        self.presharedKey = presharedKey
    }

    /// Breaks the circles that lead from here back to here.
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

/// A connection with what belongs to it at the responder.
final class Link {
    let peer: AcceptedPeer
    /// The id under which the initiator first asked: a race of initiations gets one answer.
    let secondName: ConnectionID
    var connection: Connection
    var sessions: [ResponderSession] = []
    var carriers: [CarrierID] = []
    /// The path of datagrams that was shown to lead to this peer, and its number as a carrier. This and the next are looked at
    /// for each message, and by the responder alone, which works on one at a time.
    @exclusivity(unchecked) var path: (route: DatagramRoute, id: CarrierID)?
    /// Another address from which the newest message came: until it is shown to be the peer's, all goes the old way.
    @exclusivity(unchecked) var candidate: PathCandidate?
    var challengedAt: Instant?
    /// Looked at for each datagram, as the two above.
    @exclusivity(unchecked) var part = DatagramTurn.Part()
    /// Its `.established` has been taken.
    var isAnnounced = false
    /// It was told by a byte stream that datagrams don't reach it.
    var isNudged = false
    /// Initiations opened on its byte streams in the present second, and such as came as datagrams from its address: those
    /// anybody can send who forges that.
    var handshakes = RateLimit(perSecond: Constants.initiationsPerSecond)
    var datagramHandshakes = RateLimit(perSecond: Constants.initiationsPerSecond)

    init(peer: AcceptedPeer, secondName: ConnectionID, connection: consuming Connection) {
        self.peer = peer
        self.secondName = secondName
        self.connection = connection
    }

    /// Whether this session is the connection's, or would be once confirmed.
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

/// A session at the responder, and where it belongs.
final class ResponderSession {
    let session: Session
    let peer: AcceptedPeer
    /// Where its response went.
    let origin: Origin
    let answered: ConnectionID
    /// nil until a data message has opened.
    var link: Link?
    /// Its address was the path's, and is so no more: whoever comes from there again is asked first.
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

/// Where datagrams of a peer come from, and which of our addresses they were sent to: answers leave from there.
public struct DatagramRoute: Hashable, Sendable {
    public var remote: PathAddress
    public var local: PathAddress?

    public init(remote: PathAddress, local: PathAddress? = nil) {
        self.remote = remote
        self.local = local
    }
}

/// RFC 9000 §8.2: an address that is being challenged.
struct PathCandidate {
    let route: DatagramRoute
    /// Of the message that came from there: the connection may have no other yet.
    let session: Session
    let data: UInt64
    let since: Instant
    var sent = 0
    /// When it is challenged next; nil: as soon as something can be sent.
    var sendAt: Instant?
    var bytesReceived: Int
    var bytesSent = 0
}

/// So many a second, counted in seconds that begin with the first.
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
    /// A byte stream, of a stranger until an initiation on it was valid.
    struct Carrier {
        let id: CarrierID
        let openedAt: Instant
        /// When it is closed unless something valid has come by then.
        var closeAt: Instant?
        var isKnown = false
        /// Initiations with a valid mac1 that were opened on it before any was accepted.
        var openings = 0
        var openedLastAt: Instant?
        /// One that waits for its turn at the budget.
        var waiting: ByteBuffer?
        var link: Link?
        /// Whose initiation was answered on it, while it is no connection's.
        var asker: AcceptedPeer?
        /// Answers to initiations, at most one for each of the sessions that may wait.
        var outbox: [ByteBuffer] = []
    }
}
