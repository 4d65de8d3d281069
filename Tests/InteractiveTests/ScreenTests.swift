import Testing

@testable import Interactive
@testable import picker_trial

/// The screens as people see them, stored in `Screens/`.
@Suite struct ScreenTests {
    @Test func twoHundredServicesWithWideNames() throws {
        var screens = StoredScreens("services")
        var picker = Questions.service(Names.services(200))
        screens.show("at first", picker)
        picker.press(.down, .down, .down, .down, .down, .down, .down, .down)
        screens.show("eight rows down", picker)
        picker.press(.pageDown, .pageDown)
        screens.show("two pages down", picker)
        picker.press(Array(repeating: .pageDown, count: 30))
        screens.show("at the end", picker)
        screens.show("narrow", picker, 30, 8)
        screens.show("tiny", picker, 10, 3)
        screens.show("two rows", picker, 10, 2)
        screens.show("one row", picker, 10, 1)
        screens.show("one column", picker, 1, 5)
        screens.show("large", picker, 250, 100)
        try screens.expectStored()
    }

    @Test func searches() throws {
        var screens = StoredScreens("searches")
        var picker = Questions.service(Names.services(200))
        picker.press(Key.typed("gate 88"))
        screens.show("two words", picker)
        picker.press(.control("u"))
        picker.press(Key.typed("支払 92"))
        screens.show("wide characters", picker)
        screens.show("the same, tiny", picker, 10, 3)
        picker.press(.control("w"))
        screens.show("without the last word", picker)
        picker.press(.control("u"))
        picker.press(Key.typed("Üb"))
        screens.show("a capital", picker)
        picker.press(Key.typed("x"))
        screens.show("nothing found", picker)
        picker.press(.backspace, .backspace, .backspace)
        picker.press(Key.typed("bil"))
        picker.press(.enter)
        screens.show("a service that can't be chosen", picker)
        picker.press(.control("u"))
        picker.press(Key.typed("a-name-that-is-far-longer-than-any-row-of-this-terminal-can-be-and-longer-still"))
        screens.show("a long search", picker)
        picker.press(.home)
        screens.show("its start", picker, 40, 6)
        try screens.expectStored()
    }

    @Test func severalPorts() throws {
        var screens = StoredScreens("ports")
        let offers = [
            PortOffer(8_080, name: "http"), PortOffer(9_090), PortOffer(53, name: "dns", isUDP: true),
        ]
        guard case .several(var picker) = Questions.ports(of: "api-server", offers) else {
            Issue.record("three ports are no question")
            return
        }
        screens.show("at first", picker)
        picker.press(.tab, .down, .tab)
        screens.show("the first and the third", picker)
        screens.show("the same, narrow", picker, 50, 8)
        screens.show("the same, tiny", picker, 10, 3)
        picker.press(Key.typed("909"))
        screens.show("with a search that leaves another", picker)
        #expect(picker.press(.enter) == .chosen([0, 2]))
        try screens.expectStored()
    }

    @Test func mistakesAtThePrompt() throws {
        var screens = StoredScreens("prompt")
        var prompt = Questions.workspacePort(for: PortOffer(8_080))
        screens.show("at first", prompt)
        prompt.press(Key.typed("99999"))
        screens.show("typed", prompt)
        prompt.press(.enter)
        screens.show("a mistake", prompt)
        screens.show("the same, narrow", prompt, 40, 5)
        screens.show("the same, tiny", prompt, 10, 3)
        prompt.press(Key.typed("支払い\u{1B}"))
        prompt.press(.enter)
        screens.show("another", prompt)
        prompt.press(Key.typed("3000"))
        prompt.press(.left, .left)
        screens.show("in the middle of it", prompt)
        try screens.expectStored()
    }

    @Test func namesThatWouldActOnATerminal() throws {
        var screens = StoredScreens("hostile")
        let names = [
            "\u{1B}[31mred\u{1B}[0m", "bell\u{7}", "line\nbreak\r\n", "tab\tbed", "\u{9B}31m", "del\u{7F}",
            "right-to-left \u{202E}gnp.exe", "zero\u{200B}width\u{FEFF}", "e\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}",
            "\u{301}mark first", "👩‍👩‍👧‍👦 family", "❤️ heart", "👍🏽 thumb", "🇩🇪 flag", "ﬃ", "ｆｕｌｌ", "\u{2028}",
            String(repeating: "支", count: 60), String(repeating: "long", count: 5_000),
            "z" + String(repeating: "\u{301}", count: 100_000),
        ]
        var picker = Picker(
            prompt: "\u{1B}]0;title\u{7}Pick: ",
            header: "\u{1B}c",
            items: names.map { PickerItem($0) },
            multiple: true
        )
        screens.show("at first", picker, 40, 24)
        picker.press(.pageDown)
        screens.show("below", picker, 40, 24)
        try screens.expectStored()
    }

    @Test func withoutUnicode() throws {
        var screens = StoredScreens("ascii")
        var picker = Questions.service(Names.services(3))
        picker.symbols = .ascii
        screens.show("services", picker, 40, 6)
        try screens.expectStored()
    }
}
