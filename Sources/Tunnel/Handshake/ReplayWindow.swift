/// Which counters of a session have been seen: RFC 6479's ring of words, 8,128 wide as WireGuard's.
///
/// Call `isFresh` before opening a message, and `mark` after it has opened: a forged counter must change nothing.
struct ReplayWindow: ~Copyable {
    static let wordCount = 128
    /// One word less than the ring, so that a word can be cleared before it is used again.
    static let width = UInt64((wordCount - 1) * 64)

    private var words: [UInt64]
    private var next: UInt64 = 0

    init() { self.words = Array(repeating: 0, count: Self.wordCount) }

    func isFresh(_ counter: UInt64) -> Bool {
        if counter >= self.next { return true }
        if self.next - counter > Self.width { return false }
        let word = Int(truncatingIfNeeded: counter / 64) % Self.wordCount
        return self.words[word] & (1 << (counter % 64)) == 0
    }

    /// Only for a counter that is fresh, of a message that has opened.
    mutating func mark(_ counter: UInt64) {
        if counter >= self.next {
            let previous = self.next == 0 ? 0 : (self.next - 1) / 64
            let current = counter / 64
            // Words between the highest counter so far and this one are cleared; a jump past the whole ring clears all.
            let steps = min(current - previous, UInt64(Self.wordCount))
            for step in 0..<steps {
                self.words[Int(truncatingIfNeeded: current - step) % Self.wordCount] = 0
            }
            self.next = counter + 1
        }
        self.words[Int(truncatingIfNeeded: counter / 64) % Self.wordCount] |= 1 << (counter % 64)
    }
}
