/// A search: words that must all be found. A word with a capital letter is case-sensitive, any other isn't.
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

/// A text that contains every word of a query: the word's characters in order, possibly with others between them.
public struct FuzzyMatch: Equatable, Sendable {
    /// The higher, the better.
    public let score: Int
    /// The positions of the characters that were found, ascending, each once.
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

/// The best way to find a word's characters in a text: dynamic programming over (character of the word, place in the text),
/// as in sequence alignment with affine gaps (Gotoh 1982).
///
/// Time and space are the word's length times the text's, at most 300 × 500.
private struct Alignment {
    let score: Int
    let positions: [Int]

    /// The best score if a character of the word is matched at exactly this place.
    private struct Cell {
        var score: Int
        /// Where the previous character of the word was matched; -1 for the first.
        var previous: Int
        /// The bonus at the place where the current run of adjacent matches began.
        var bonusOfRun: Int
    }

    init?(of word: FuzzyQuery.Word, in text: FuzzyText) {
        let pattern = word.characters
        let characters = word.isCaseSensitive ? text.characters : text.folded
        guard !pattern.isEmpty, let places = Self.places(of: pattern, in: characters) else { return nil }

        let width = places.count
        var table: [Cell?] = Array(repeating: nil, count: pattern.count * width)
        for row in pattern.indices {
            // The best match of the previous characters with at least one other character between it and this place,
            // including the gap's cost.
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
                        // Each match in a run gets at least the bonus of the run's start, so that "api" in "api-server"
                        // beats scattered letters.
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

    /// From the first place where the word's first character can be matched, to the last place where its last one can; nil
    /// if the characters don't occur in this order.
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
