import Libc
import Testing

@testable import Interactive

/// What needs no terminal; the rest is in `Tests/EndToEnd/test_interactive.py`.
@Suite struct TerminalTests {
    @Test func withoutATerminalNothingIsAsked() {
        var ends: [CInt] = [-1, -1]
        #expect(pipe(&ends) == 0)
        defer { for end in ends { close(end) } }
        #expect(!Terminal.isInteractive(input: ends[0], output: ends[1]))
        #expect(throws: TerminalError.notATerminal) {
            try Terminal.run(Questions.service([]), input: ends[0], output: ends[1])
        }
        #expect(throws: TerminalError.notATerminal) { try RawMode.enter(input: ends[0], output: ends[1]) }
    }

    @Test(
        arguments: [
            ([:], true), (["LANG": "C"], true), (["LANG": "de_DE.UTF-8"], true), (["LANG": "de_DE.utf8@euro"], true),
            (["LANG": "de_DE.ISO-8859-1"], false), (["LANG": "de_DE.ISO-8859-1", "LC_ALL": "C.UTF-8"], true),
            (["LC_CTYPE": "ja_JP.eucJP", "LANG": "C.UTF-8"], false), (["TERM": "linux"], false),
            (["LC_ALL": "", "TERM": "xterm"], true),
        ] as [([String: String], Bool)]
    )
    func symbols(environment: [String: String], isUnicode: Bool) {
        #expect(Symbols(environment: environment) == (isUnicode ? .unicode : .ascii))
    }

    @Test func errorsSayWhatToDo() {
        for error in [
            TerminalError.notATerminal, .closed, .busy, .system(what: "the terminal can't be read", code: EIO),
        ] {
            #expect(error.description.contains(". ") && error.description.hasSuffix("."))
        }
    }
}
