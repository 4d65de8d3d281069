/// The streams of a connection by id, and which either side may open.
///
/// The last one looked up is found without a search: bulk messages belong to the same stream, one after the other.
struct StreamTable {
    private var entries: [UInt64: StreamState] = [:]
    private var recent: StreamState?
    /// Stream 0, which is also in the entries: every message looks it up.
    private(set) var control: StreamState?

    private let role: Role
    /// What the peer takes of each stream before it gives further credit.
    private let initialSendCredit: UInt64
    /// How many the peer may have open at once.
    private let maxFromPeer: UInt64
    private var localNext: UInt64 = 0
    private var localLimit: UInt64
    private var peerNext: UInt64 = 0
    /// The limit that we have announced.
    private(set) var peerLimit: UInt64
    private var peerDone: UInt64 = 0

    init(_ role: Role, maxFromPeer: UInt64, peer: TransportParameters) {
        self.role = role
        self.maxFromPeer = maxFromPeer
        self.peerLimit = maxFromPeer
        self.initialSendCredit = peer.initialMaxStreamData
        self.localLimit = peer.initialMaxStreams
    }

    var count: Int { self.entries.count }
    var values: some Collection<StreamState> { self.entries.values }
    /// For tests.
    var limits: [UInt64] { [self.localNext, self.localLimit, self.peerNext, self.peerLimit] }

    subscript(id: StreamID) -> StreamState? {
        mutating get {
            if let recent, recent.id == id { return recent }
            guard let stream = self.entries[id.rawValue] else { return nil }
            self.recent = stream
            return stream
        }
    }

    /// The same without remembering the stream, for callers that can't mutate.
    func peek(_ id: StreamID) -> StreamState? {
        if let recent, recent.id == id { return recent }
        return self.entries[id.rawValue]
    }

    // MARK: Opening

    /// Opens a stream of ours; nil when the peer allows no more at the moment, or too many are open.
    mutating func open() -> StreamID? {
        guard self.localNext < self.localLimit, self.entries.count < Constants.streams else { return nil }
        let id = StreamID(index: self.localNext, openedBy: self.role)
        self.localNext += 1
        self.insert(id)
        return id
    }

    mutating func raiseLimit(to limit: UInt64) { self.localLimit = max(self.localLimit, limit) }

    /// Opens a stream of the peer, and with it all lower-numbered ones (RFC 9000 §2.1), which are handed to the closure. Throws
    /// for a stream that it may not use. Does nothing for one that was open before.
    mutating func openByPeer(_ id: StreamID, _ opened: (StreamID) -> Void) throws(TransportError) {
        guard !id.isUnidirectional else { throw TransportError(.streamStateError, "a unidirectional stream") }
        if id.opener == self.role {
            guard id.index < self.localNext else {
                throw TransportError(.streamStateError, "a stream of ours that we did not open")
            }
            return
        }
        guard id.index < self.peerLimit else {
            throw TransportError(.streamLimitError, "more streams than were allowed")
        }
        // The limit bounds the loop.
        while self.peerNext <= id.index {
            let next = StreamID(index: self.peerNext, openedBy: id.opener)
            self.peerNext += 1
            self.insert(next)
            opened(next)
        }
    }

    private mutating func insert(_ id: StreamID) {
        let stream = StreamState(
            id: id,
            sendCredit: self.initialSendCredit,
            receiveWindow: Constants.initialStreamWindow
        )
        self.entries[id.rawValue] = stream
        if id == .control { self.control = stream }
    }

    // MARK: Removing

    /// False: there was no such stream.
    mutating func remove(_ id: StreamID) -> Bool {
        if self.recent?.id == id { self.recent = nil }
        return self.entries.removeValue(forKey: id.rawValue) != nil
    }

    /// A stream of the peer is over. True: a higher limit is to be announced, in steps of an eighth, not for each stream.
    mutating func peerStreamIsDone() -> Bool {
        self.peerDone += 1
        let limit = self.peerDone + self.maxFromPeer
        guard limit >= self.peerLimit + max(1, self.maxFromPeer / 8) else { return false }
        self.peerLimit = limit
        return true
    }

    mutating func removeAll() {
        self.recent = nil
        self.control = nil
        self.entries.removeAll()
    }
}
