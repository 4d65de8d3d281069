/// What is searched for: words, all of which must be found. A word with a capital is searched as it is written, any other
/// in any case.
public struct FuzzyQuery: Equatable, Sendable {
    struct Word: Equatable, Sendable {
        let characters: [Character]
        let isCaseSensitive: Bool
    }

    let words: [Word]

    public init(_ text: String) {
        self.words = text.prefix(LineEditor.longest).split(whereSeparator: \.isWhitespace).map { word in
            let isCaseSensitive = word.contains(where: \.isUppercase)
            return Word(
                characters: isCaseSensitive ? Array(word) : word.map(FuzzyText.fold),
                isCaseSensitive: isCaseSensitive
            )
        }
    }

    public var isEmpty: Bool { self.words.isEmpty }
}

/// A text in which every word of a query was found, its characters in their order, others between them or not.
public struct FuzzyMatch: Equatable, Sendable {
    /// The higher, the better.
    public let score: Int
    /// Of the characters that were found, ascending, each once.
    public let positions: [Int]

    /// Nil: a word isn't in the text.
    public static func find(_ query: FuzzyQuery, in text: FuzzyText) -> FuzzyMatch? {
        var score = 0
        var positions: Set<Int> = []
        for word in query.words {
            guard let alignment = Alignment(of: word, in: text) else { return nil }
            score += alignment.score
            positions.formUnion(alignment.positions)
        }
        return FuzzyMatch(score: score, positions: positions.sorted())
    }
}

/// The best of all ways to find a word's characters in a text: dynamic programming over (character of the word, place in
/// the text), as for the alignment of sequences with affine gaps (Gotoh 1982).
///
/// Time and room are the word's length times the text's, 300 × 500 at most.
private struct Alignment {
    let score: Int
    let positions: [Int]

    /// The best way in which one character of the word is found exactly here.
    private struct Cell {
        var score: Int
        /// Where the character before it was found; -1 for the first.
        var previous: Int
        /// What the place is worth where the run of neighbours began that this one continues.
        var bonusOfRun: Int
    }

    init?(of word: FuzzyQuery.Word, in text: FuzzyText) {
        let pattern = word.characters
        let characters = word.isCaseSensitive ? text.characters : text.folded
        guard !pattern.isEmpty, let places = Self.places(of: pattern, in: characters) else { return nil }

        let width = places.count
        var table: [Cell?] = Array(repeating: nil, count: pattern.count * width)
        for row in pattern.indices {
            // The best end of the characters before, with at least one other between, and what the gap has cost.
            var gap: (score: Int, place: Int)?
            for place in row..<width {
                if row > 0 {
                    gap?.score += FuzzyText.scoreOfGapExtension
                    if place >= 2, let cell = table[(row - 1) * width + place - 2] {
                        let score = cell.score + FuzzyText.scoreOfGapStart
                        if score > gap?.score ?? Int.min { gap = (score, place - 2) }
                    }
                }
                guard characters[places.lowerBound + place] == pattern[row] else { continue }
                let bonus = text.bonuses[places.lowerBound + place]
                var best: Cell?
                if row == 0 {
                    let score = FuzzyText.scoreOfMatch + bonus * FuzzyText.firstCharacterFactor
                    best = Cell(score: score, previous: -1, bonusOfRun: bonus)
                } else {
                    if let gap {
                        let score = gap.score + FuzzyText.scoreOfMatch + bonus
                        best = Cell(score: score, previous: gap.place, bonusOfRun: bonus)
                    }
                    if let before = place > 0 ? table[(row - 1) * width + place - 1] : nil {
                        // A run is worth as much as its start, so that "api" in "api-server" beats letters here and there.
                        let startsWord = bonus >= FuzzyText.bonusAtBoundary && bonus > before.bonusOfRun
                        let worth = startsWord ? bonus : max(bonus, FuzzyText.bonusInRun, before.bonusOfRun)
                        let score = before.score + FuzzyText.scoreOfMatch + worth
                        if score >= best?.score ?? Int.min {
                            let run = startsWord ? bonus : before.bonusOfRun
                            best = Cell(score: score, previous: place - 1, bonusOfRun: run)
                        }
                    }
                }
                table[row * width + place] = best
            }
        }
        self.init(table: table, rows: pattern.count, width: width, offset: places.lowerBound)
    }

    private init?(table: [Cell?], rows: Int, width: Int, offset: Int) {
        var end: (score: Int, place: Int)?
        for place in 0..<width {
            if let cell = table[(rows - 1) * width + place], cell.score > end?.score ?? Int.min {
                end = (cell.score, place)
            }
        }
        guard let end else { return nil }
        var positions: [Int] = []
        var place = end.place
        for row in (0..<rows).reversed() {
            positions.append(offset + place)
            place = table[row * width + place]?.previous ?? -1
        }
        self.score = end.score
        self.positions = positions.reversed()
    }

    /// From the first place where the first character may be to the last where the last may be; nil when the characters
    /// aren't there in this order.
    private static func places(of pattern: [Character], in characters: [Character]) -> Range<Int>? {
        var next = 0
        var first = 0
        for (place, character) in characters.enumerated() where character == pattern[next] {
            if next == 0 { first = place }
            next += 1
            if next == pattern.count { break }
        }
        guard next == pattern.count, let last = characters.lastIndex(of: pattern[pattern.count - 1]) else { return nil }
        return first..<(last + 1)
    }
}
