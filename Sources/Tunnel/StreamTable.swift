/// The streams of a connection, by their numbers. The one that was asked for last is found without a search: what comes and
/// goes in bulk is one stream's, message after message.
struct StreamTable {
    private var entries: [UInt64: StreamState] = [:]
    private var recent: StreamState?

    var count: Int { self.entries.count }
    var values: some Collection<StreamState> { self.entries.values }

    subscript(id: StreamID) -> StreamState? {
        mutating get {
            if let recent, recent.id == id { return recent }
            guard let stream = self.entries[id.rawValue] else { return nil }
            self.recent = stream
            return stream
        }
    }

    /// The same for who may change nothing.
    func peek(_ id: StreamID) -> StreamState? {
        if let recent, recent.id == id { return recent }
        return self.entries[id.rawValue]
    }

    mutating func insert(_ stream: StreamState) { self.entries[stream.id.rawValue] = stream }

    /// False: there was no such stream any more.
    mutating func remove(_ id: StreamID) -> Bool {
        if self.recent?.id == id { self.recent = nil }
        return self.entries.removeValue(forKey: id.rawValue) != nil
    }

    mutating func removeAll() {
        self.recent = nil
        self.entries.removeAll()
    }
}
