/// A text prepared for searching once, so that each typed key costs little.
public struct FuzzyText: Sendable {
    /// The characters as written, and as compared when case doesn't matter.
    let characters: [Character]
    let folded: [Character]
    /// The bonus for a match at each character: higher where words start.
    let bonuses: [Int]

    /// In characters. The rest isn't searched; a terminal's row shows far less.
    public static let longest = 500

    public init(_ text: String) {
        // A single character can have any number of scalars, so limit those first.
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

    // The weights are those of fzf (src/algo/algo.go), which its author found for file names, and which users know.
    static let scoreOfMatch = 16
    static let scoreOfGapStart = -3
    static let scoreOfGapExtension = -1
    static let bonusAtBoundary = 8
    static let bonusAfterDelimiter = 9
    static let bonusAfterBlank = 10
    static let bonusInCamelCase = 7
    static let bonusInRun = 4
    /// The weight of the bonus of the word's first character.
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
    /// Other signs, including the `-` and `.` in services' names.
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
