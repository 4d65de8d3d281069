import Testing

@testable import Interactive

@Suite struct FuzzyMatchTests {
    static func match(_ query: String, _ text: String) -> FuzzyMatch? {
        FuzzyMatch.find(FuzzyQuery(query), in: FuzzyText(text))
    }

    /// The found characters in brackets.
    static func shown(_ query: String, _ text: String) -> String? {
        guard let match = self.match(query, text) else { return nil }
        return text.enumerated().map { match.positions.contains($0.offset) ? "[\($0.element)]" : "\($0.element)" }
            .joined()
    }

    @Test(arguments: [
        ("api", "api-server", "[a][p][i]-server"),
        // The start of a word beats an earlier place.
        ("s", "api-server", "api-[s]erver"),
        ("as", "api-server", "[a]pi-[s]erver"),
        // A run beats single letters.
        ("ser", "s-e-r server", "s-e-r [s][e][r]ver"),
        ("80", "8 0 8080", "8 0 [8][0]80"),
        ("gw", "authGateWay", "auth[G]ate[W]ay"),
        ("API", "api API", "api [A][P][I]"),
        ("server api", "api-server", "[a][p][i]-[s][e][r][v][e][r]"),
        ("支い", "支払い", "[支]払[い]"),
        ("é", "cafe\u{301}", "caf[é]"),
        ("ü", "Überweisung", "[Ü]berweisung"),
        ("a a", "banana", "b[a]nana"),
        ("aaa", "banana", "b[a]n[a]n[a]"),
    ])
    func found(query: String, text: String, expected: String) {
        #expect(Self.shown(query, text) == expected)
    }

    @Test(arguments: [
        ("x", "api"), ("ia", "api"), ("apii", "api"), ("API", "api"), ("api x", "api"), ("a", ""), ("Ü", "überweisung"),
        ("80801", "8080"),
    ])
    func notFound(query: String, text: String) {
        #expect(Self.match(query, text) == nil)
    }

    @Test func anEmptyQueryIsInAll() {
        #expect(Self.match("", "api") == FuzzyMatch(score: 0, positions: []))
        #expect(Self.match("  ", "") == FuzzyMatch(score: 0, positions: []))
    }

    /// Each beats the next.
    @Test(arguments: [
        ("api", ["api", "my-api", "a-p-i", "rapid", "xaxpxi"]),
        ("sv", ["svc", "my svc", "x-svc", "fooSvc", "server", "usv", "ussxv"]),
    ])
    func order(query: String, texts: [String]) {
        let scores = texts.map { Self.match(query, $0)?.score ?? -1 }
        #expect(scores == scores.sorted(by: >))
        #expect(!scores.contains(-1))
    }

    @Test func scoresAreThoseOfFzf() {
        // fzf's own test of its algorithm has these sums (src/algo/algo_test.go), with its path-like scheme's constants.
        #expect(Self.match("oBz", "fooBarbaz")?.score == 16 * 3 + 7 - 3 - 3)
        #expect(Self.match("rdoc", "/AutomatorDocument.icns")?.score == 16 * 4 + 7 + 4 * 2)
        #expect(Self.match("zshc", "/man1/zshcompctl.1")?.score == 16 * 4 + 9 * 2 + 9 * 3)
        #expect(Self.match("zshc", "/.oh-my-zsh/cache")?.score == 16 * 4 + 8 * 2 + 8 * 2 - 3 + 9)
    }

    /// The best of all alignments, found by trying each.
    @Test(arguments: 0..<200)
    func asGoodAsAnyChoiceOfPlaces(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let text = String(
            (0..<Int.random(in: 1...9, using: &random)).map { _ in "ab-A ".randomElement(using: &random) ?? "a" }
        )
        let word = String(
            (0..<Int.random(in: 1...4, using: &random)).map { _ in "ab".randomElement(using: &random) ?? "a" }
        )
        let isThere = Self.subsequences(of: word, in: text.lowercased())
        let match = Self.match(word, text)
        #expect((match != nil) == isThere)
        if let match {
            #expect(String(match.positions.map { Array(text.lowercased())[$0] }) == word)
            #expect(match.positions == match.positions.sorted())
        }
    }

    private static func subsequences(of word: String, in text: String) -> Bool {
        var rest = word[...]
        for character in text where character == rest.first { rest = rest.dropFirst() }
        return rest.isEmpty
    }

    @Test func longInputsAreBounded() {
        let text = FuzzyText(String(repeating: "a", count: 1_000_000))
        #expect(text.characters.count == FuzzyText.longest)
        let query = FuzzyQuery(String(repeating: "a", count: 1_000_000))
        #expect(query.words.map(\.characters.count) == [LineEditor.longest])
        #expect(FuzzyMatch.find(query, in: text)?.positions.count == LineEditor.longest)
        #expect(FuzzyText("z" + String(repeating: "\u{301}", count: 1_000_000)).characters.count == 1)
    }
}
