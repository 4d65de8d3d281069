import Testing

@testable import Interactive

@Suite struct LinePromptTests {
    @Test(
        arguments: [
            ([.enter], .chosen("8080")),
            (Key.typed("3000") + [.enter], .chosen("3000")),
            (Key.typed(" 3000 ") + [.control("j")], .chosen("3000")),
            (Key.typed("  ") + [.enter], .chosen("8080")),
            (Key.typed("300") + [.left, .left, .left, .character("1"), .enter], .chosen("1300")),
            (Key.typed("abc") + [.control("u"), .enter], .chosen("8080")),
            ([.escape], .cancelled),
            ([.control("d")], .cancelled),
            (Key.typed("30") + [.home, .control("d"), .end], .continue),
            ([.control("c")], .interrupted),
            ([.tab, .up, .pageDown], .continue),
        ] as [([Key], PromptAction)]
    )
    func keys(keys: [Key], action: PromptAction) {
        var prompt = Questions.workspacePort(for: PortOffer(8_080))
        #expect(prompt.press(keys) == action)
    }

    @Test(arguments: ["0", "65536", "99999", "-1", "+80", "8 0", "abc", "８０", "80.0", "0x50", "18446744073709551616"])
    func mistakesAreNamedAndAskedAgain(answer: String) {
        var prompt = Questions.workspacePort(for: PortOffer(8_080))
        #expect(prompt.press(Key.typed(answer) + [.enter]) == .continue)
        #expect(prompt.complaint == "'\(answer)' isn't a port number. Enter one between 1 and 65535.")
        #expect(prompt.answer.isEmpty)
        // Enter alone now is the default, as it says.
        #expect(prompt.press(.enter) == .chosen("8080"))
    }

    @Test func withoutADefaultNothingIsAMistakeOfItsOwn() {
        var prompt = LinePrompt(prompt: "Name: ", defaultAnswer: nil) { $0.isEmpty ? "a name is needed." : nil }
        #expect(prompt.press(.enter) == .continue)
        #expect(prompt.complaint == "a name is needed.")
        #expect(prompt.press(Key.typed("x") + [.enter]) == .chosen("x"))
    }

    @Test func questionAndAnswerStay() {
        let prompt = Questions.workspacePort(for: PortOffer(53, isUDP: true))
        #expect(prompt.record(of: "5353") == "  Service port 53/udp → Workspace port [53]: 5353")
    }

    @Test(arguments: 0..<100)
    func anyKeysAtAnySize(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var prompt = Questions.workspacePort(for: PortOffer(8_080))
        for _ in 0..<150 {
            if case .chosen(let text) = prompt.handle(
                Int.random(in: 0..<5, using: &random) == 0 ? .enter : .random(using: &random)
            ) {
                #expect(Questions.port(text) != nil)
            }
            let width = Int.random(in: -1...120, using: &random)
            let height = Int.random(in: -1...10, using: &random)
            expectSound(prompt.screen(width: width, height: height), width: width, height: height)
        }
    }
}
