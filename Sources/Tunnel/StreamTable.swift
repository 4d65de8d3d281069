/// The streams of a connection by id. The last one looked up is found without a search: bulk messages belong to the same
/// stream, one after the other.
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

    /// The same without remembering the stream, for callers that can't mutate.
    func peek(_ id: StreamID) -> StreamState? {
        if let recent, recent.id == id { return recent }
        return self.entries[id.rawValue]
    }

    mutating func insert(_ stream: StreamState) { self.entries[stream.id.rawValue] = stream }

    /// False: there was no such stream.
    mutating func remove(_ id: StreamID) -> Bool {
        if self.recent?.id == id { self.recent = nil }
        return self.entries.removeValue(forKey: id.rawValue) != nil
    }

    mutating func removeAll() {
        self.recent = nil
        self.entries.removeAll()
    }
}
