/// The offsets of the urgent bytes of one direction, rising.
///
/// TCP has one urgent pointer: when a newer urgent byte comes, an older one that was not read becomes an ordinary byte. Here
/// the latest 16 keep their mark and only earlier ones lose it, so a sender can't fill the memory.
public struct UrgentMarks: Sendable {
    private var offsets: [UInt64] = []

    /// † A server that gets two urgent bytes at once loses the mark of the first anyway.
    static let kept = 16

    public init() {}

    public var isEmpty: Bool { self.offsets.isEmpty }
    var count: Int { self.offsets.count }

    public mutating func insert(_ offset: UInt64) {
        // Nearly always the new offset is the highest.
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
