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

extension Responder {
    /// A byte stream. It counts as a stranger's until a valid initiation has come on it.
    struct Carrier {
        let id: CarrierID
        let kind: CarrierKind
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
