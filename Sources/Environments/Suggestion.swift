/// "Did you mean …?": finds the known word that is nearest to a mistyped one.
public enum Suggestion {
    /// Longer words aren't typed by hand; the work grows with the product of two lengths.
    private static let maxLength = 64
    /// † So that a list of thousands doesn't hold up an error message.
    private static let maxCandidates = 2_000

    /// Nil: no candidate is near enough. Of several that are equally near, the first is returned.
    public static func nearest(to word: String, among candidates: some Sequence<String>) -> String? {
        let wanted = Array(word.lowercased().unicodeScalars)
        guard !wanted.isEmpty, wanted.count <= Self.maxLength else { return nil }
        // A third of the letters may be wrong, and always one unless the word is a single letter.
        var limit = wanted.count == 1 ? 0 : max(1, wanted.count / 3)
        var best: String?
        for candidate in candidates.prefix(Self.maxCandidates) {
            let other = Array(candidate.lowercased().unicodeScalars)
            guard !other.isEmpty, other.count <= Self.maxLength, abs(other.count - wanted.count) <= limit else {
                continue
            }
            let distance = Self.distance(wanted, other)
            guard best == nil ? distance <= limit : distance < limit else { continue }
            best = candidate
            limit = distance
        }
        return best
    }

    /// " Did you mean 'api'?", or nothing.
    public static func sentence(for word: String, among candidates: some Sequence<String>) -> String {
        Self.nearest(to: word, among: candidates).map { " Did you mean '\($0)'?" } ?? ""
    }

    /// The edit distance: letters left out, put in, replaced, or exchanged with their neighbour (Damerau, 1964, restricted
    /// form).
    static func distance(_ first: [Unicode.Scalar], _ second: [Unicode.Scalar]) -> Int {
        var beforeLast: [Int] = []
        var last = Array(0...second.count)
        for (i, letter) in first.enumerated() {
            var row = [i + 1]
            row.reserveCapacity(second.count + 1)
            for (j, other) in second.enumerated() {
                var least = min(row[j] + 1, last[j + 1] + 1, last[j] + (letter == other ? 0 : 1))
                if i > 0, j > 0, letter == second[j - 1], first[i - 1] == other {
                    least = min(least, beforeLast[j - 1] + 1)
                }
                row.append(least)
            }
            beforeLast = last
            last = row
        }
        return last[second.count]
    }
}
