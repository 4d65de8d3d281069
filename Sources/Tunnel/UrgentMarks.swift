/// Where the urgent bytes of one direction are: offsets, rising.
///
/// TCP has one urgent pointer: with a newer urgent byte behind it, one that hasn't been read becomes an ordinary byte. Here
/// the newest few keep their mark, and only those before them lose it, so that a sender fills no memory.
public struct UrgentMarks: Sendable {
    private var offsets: [UInt64] = []

    /// † A server that is told of two at once has lost the first as well.
    static let kept = 16

    public init() {}

    public var isEmpty: Bool { self.offsets.isEmpty }
    var count: Int { self.offsets.count }

    public mutating func insert(_ offset: UInt64) {
        // Nearly always behind all others.
        var at = self.offsets.count
        while at > 0, self.offsets[at - 1] >= offset {
            if self.offsets[at - 1] == offset { return }
            at -= 1
        }
        self.offsets.insert(offset, at: at)
        if self.offsets.count > Self.kept { self.offsets.removeFirst() }
    }

    public func first(from start: UInt64) -> UInt64? { self.offsets.first { $0 >= start } }

    public mutating func remove(below end: UInt64) { self.offsets.removeAll { $0 < end } }

    public mutating func removeAll() { self.offsets.removeAll() }
}
