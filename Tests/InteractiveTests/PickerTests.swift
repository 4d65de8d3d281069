import Testing

@testable import Interactive
@testable import picker_trial

@Suite struct PickerTests {
    static func picker(_ texts: [String] = ["api", "billing", "web"], multiple: Bool = false) -> Picker {
        Picker(prompt: "Pick: ", header: nil, items: texts.map { PickerItem($0) }, multiple: multiple)
    }

    @Test(
        arguments: [
            ([.enter], .chosen([0])),
            ([.down, .enter], .chosen([1])),
            ([.control("n"), .control("j"), .control("p"), .enter], .chosen([1])),
            ([.down, .down, .control("k"), .enter], .chosen([1])),
            ([.up, .enter], .chosen([0])),
            ([.pageDown, .enter], .chosen([2])),
            ([.pageDown, .pageUp, .enter], .chosen([0])),
            (Key.typed("we") + [.enter], .chosen([2])),
            (Key.typed("wx") + [.backspace, .enter], .chosen([2])),
            (Key.typed("zz") + [.enter], .continue),
            (Key.typed("zz") + [.control("u"), .enter], .chosen([0])),
            (Key.typed("zz") + [.up, .down, .pageDown, .tab], .continue),
            // A search begins at its best row.
            ([.down, .down] + Key.typed("i") + [.enter], .chosen([0])),
            ([.tab, .enter], .chosen([0])),
            ([.escape], .cancelled),
            ([.control("g")], .cancelled),
            ([.control("d")], .cancelled),
            (Key.typed("a") + [.control("d")], .continue),
            ([.control("c")], .interrupted),
            (Key.typed("a") + [.control("c")], .interrupted),
            ([.control("x"), .enter], .chosen([0])),
        ] as [([Key], PickerAction)]
    )
    func one(keys: [Key], action: PickerAction) {
        var picker = Self.picker()
        #expect(picker.press(keys) == action)
    }

    @Test(
        arguments: [
            // Nothing toggled: the current one.
            ([.down, .enter], .chosen([1])),
            ([.tab, .enter], .chosen([0])),
            ([.tab, .tab, .enter], .chosen([0, 1])),
            ([.down, .down, .tab, .up, .up, .tab, .enter], .chosen([0, 2])),
            ([.tab, .up, .tab, .enter], .chosen([1])),
            ([.down, .down, .backTab, .backTab, .enter], .chosen([1, 2])),
            // What was toggled stays so while one searches on.
            (Key.typed("web") + [.tab, .control("u")] + Key.typed("api") + [.tab, .enter], .chosen([0, 2])),
            ([.tab] + Key.typed("zzz") + [.enter], .chosen([0])),
            ([.tab, .escape], .cancelled),
        ] as [([Key], PickerAction)]
    )
    func several(keys: [Key], action: PickerAction) {
        var picker = Self.picker(multiple: true)
        #expect(picker.press(keys) == action)
    }

    @Test func whatIsDisabledSaysWhy() {
        let items = [PickerItem("api", disabledReason: "intercepted by ada"), PickerItem("web")]
        for multiple in [true, false] {
            var picker = Picker(prompt: "", header: nil, items: items, multiple: multiple)
            #expect(picker.press(.enter) == .continue)
            #expect(picker.screen(width: 80, height: 24).plainText.contains("2/2 · intercepted by ada"))
            picker.press(.down)
            #expect(!picker.screen(width: 80, height: 24).plainText.contains("· intercepted"))
            #expect(picker.press(.enter) == .chosen([1]))
        }
        var picker = Picker(prompt: "", header: nil, items: items, multiple: true)
        #expect(picker.press(.tab, .down, .tab, .enter) == .chosen([1]))
    }

    @Test func theShorterOfTwoThatFitAlikeComesFirst() {
        var picker = Self.picker(["web-frontend-2", "web-2", "web-1"])
        picker.press(Key.typed("web"))
        #expect(picker.matches.map(\.item) == [1, 2, 0])
    }

    @Test func nothingToPick() {
        var picker = Self.picker([])
        expectSound(picker.screen(width: 80, height: 24), width: 80, height: 24)
        #expect(picker.press(.up, .down, .pageUp, .pageDown, .tab, .character("a"), .backspace, .enter) == .continue)
        #expect(picker.press(.escape) == .cancelled)
    }

    /// Each key of ten thousand rows comes before the next is typed.
    @Test func tenThousandRows() {
        var picker = Questions.service(Names.services(10_000))
        let clock = ContinuousClock()
        let took = clock.measure { picker.press(Key.typed("api-server-12 8080")) }
        #expect(took < .seconds(18))
    }

    @Test(arguments: 0..<150)
    func anyKeysAtAnySize(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let items = Names.services(Int.random(in: 0...40, using: &random)).map {
            PickerItem($0.line, disabledReason: $0.refusal)
        }
        let multiple = Bool.random(using: &random)
        let header = Bool.random(using: &random) ? "A header 支払い that may need more than one row" : nil
        var picker = Picker(prompt: "Pick: ", header: header, items: items, multiple: multiple)
        for _ in 0..<150 {
            switch picker.handle(Int.random(in: 0..<30, using: &random) == 0 ? .enter : .random(using: &random)) {
            case .chosen(let indices):
                #expect(!indices.isEmpty && indices.allSatisfy { items[$0].disabledReason == nil })
                #expect(indices == indices.sorted() && (multiple || indices.count == 1))
            case .continue, .cancelled, .interrupted: break
            }
            let width = Int.random(in: -1...120, using: &random)
            let height = Int.random(in: -1...40, using: &random)
            expectSound(picker.screen(width: width, height: height), width: width, height: height)
        }
    }
}
