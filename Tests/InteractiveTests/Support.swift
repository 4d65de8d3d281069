import Testing

@testable import Interactive

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers for the same seed.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { self.state = seed }

    mutating func next() -> UInt64 {
        self.state &+= 0x9E37_79B9_7F4A_7C15
        var value = self.state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}

extension Key {
    static func typed(_ text: String) -> [Key] { text.map { .character($0) } }

    /// Any key, characters of all widths more often.
    static func random(using random: inout SeededRandom) -> Key {
        let others: [Key] = [
            .tab, .backTab, .backspace, .up, .down, .pageUp, .pageDown, .left, .right, .home, .end, .delete,
        ]
        let letters: [Character] = [
            "a", "p", "i", "-", "8", " ", "E", "é", "\u{301}", "支", "배", "🚀", "👩‍🚀", "\u{200D}", "\u{FE0F}", "\u{202E}",
            "\u{0}",
        ]
        switch Int.random(in: 0..<10, using: &random) {
        case 0...4: return .character(letters.randomElement(using: &random) ?? "a")
        case 5...8: return others.randomElement(using: &random) ?? .tab
        default: return .control("abdefhjknpuwx".randomElement(using: &random) ?? "a")
        }
    }
}

extension Dialogue {
    /// What the last key led to.
    @discardableResult
    mutating func press(_ keys: [Key]) -> DialogueAction<Choice> {
        var action = DialogueAction<Choice>.continue
        for key in keys { action = self.handle(key) }
        return action
    }

    @discardableResult
    mutating func press(_ keys: Key...) -> DialogueAction<Choice> { self.press(keys) }
}

/// What must hold of any screen of any size.
func expectSound(_ screen: Screen, width: Int, height: Int, _ place: SourceLocation = #_sourceLocation) {
    #expect(screen.lines.count <= max(0, height), sourceLocation: place)
    #expect(screen.lines.count <= 15, sourceLocation: place)
    for line in screen.lines {
        #expect(line.width <= max(0, width), sourceLocation: place)
        #expect(line.width == line.spans.reduce(0) { $0 + $1.width }, sourceLocation: place)
        for span in line.spans {
            #expect(
                span.text.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control },
                sourceLocation: place
            )
        }
    }
    if let cursor = screen.cursor {
        #expect(screen.lines.indices.contains(cursor.row), sourceLocation: place)
        #expect((0..<max(1, width)).contains(cursor.column), sourceLocation: place)
    }
}
