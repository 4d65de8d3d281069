/// Text that is searched, made ready once, so that each key that is typed costs little.
public struct FuzzyText: Sendable {
    /// As typed, and as compared when case doesn't count.
    let characters: [Character]
    let folded: [Character]
    /// What a match at each character is worth beyond being one: more where words start.
    let bonuses: [Int]

    /// In characters. What is beyond isn't searched; a row of a terminal shows far less.
    public static let longest = 500

    public init(_ text: String) {
        // A single character can be of any length too.
        let characters = Array(String(text.unicodeScalars.prefix(DisplayText.longest)).prefix(Self.longest))
        self.characters = characters
        self.folded = characters.map(Self.fold)
        var previous = CharacterClass.blank
        self.bonuses = characters.map { character in
            let current = CharacterClass(character)
            defer { previous = current }
            return Self.bonus(from: previous, to: current)
        }
    }

    static func fold(_ character: Character) -> Character {
        guard !character.isASCII || character.isUppercase else { return character }
        let lower = character.lowercased()
        return lower.count == 1 ? lower.first ?? character : character
    }

    // The weights are fzf's (src/algo/algo.go): found by its author for names of files, and what fingers are used to.
    static let scoreOfMatch = 16
    static let scoreOfGapStart = -3
    static let scoreOfGapExtension = -1
    static let bonusAtBoundary = 8
    static let bonusAfterDelimiter = 9
    static let bonusAfterBlank = 10
    static let bonusInCamelCase = 7
    static let bonusInRun = 4
    /// How much more the place of the first character counts.
    static let firstCharacterFactor = 2

    private static func bonus(from previous: CharacterClass, to current: CharacterClass) -> Int {
        switch (previous, current) {
        case (_, .blank): Self.bonusAfterBlank
        case (_, .delimiter), (_, .other): Self.bonusAtBoundary
        case (.blank, _): Self.bonusAfterBlank
        case (.delimiter, _): Self.bonusAfterDelimiter
        case (.other, _): Self.bonusAtBoundary
        case (.lower, .upper), (.lower, .digit), (.upper, .digit): Self.bonusInCamelCase
        default: 0
        }
    }
}

private enum CharacterClass {
    case blank
    case delimiter
    case lower
    case upper
    case digit
    /// Other signs; `-` and `.` of names of services are among them.
    case other

    init(_ character: Character) {
        if character.isWhitespace {
            self = .blank
        } else if "/,:;|".contains(character) {
            self = .delimiter
        } else if character.isUppercase {
            self = .upper
        } else if character.isNumber {
            self = .digit
        } else if character.isLetter {
            self = .lower
        } else {
            self = .other
        }
    }
}
