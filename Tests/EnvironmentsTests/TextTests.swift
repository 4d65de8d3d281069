import CommandText
import InterceptProtocol
import Testing

@testable import Environments

struct TextTests {
    @Test(arguments: [
        ("a b  c", ["a", "b", "c"]), ("", []), ("  ", []), ("'a b' \"c d\"", ["a b", "c d"]),
        ("a''b \"\"", ["ab", ""]),
        ("a\\ b \\\"", ["a b", "\""]), ("\"a\\\"b\\x\\$\"", ["a\"b\\x$"]), ("a\\\nb\nc", ["ab", "c"]), ("'\\'", ["\\"]),
        ("--x='1 2'", ["--x=1 2"]),
    ])
    func shellWords(text: String, words: [String]) throws { #expect(try ShellWords(text).words == words) }

    @Test(arguments: [
        ("a && b", "&&"), ("a | b", "|"), ("a; b", ";"), ("a 2>&1", "2>&1"), ("a '&&' b", nil), ("a \\| b", nil),
        ("a -c=x", nil),
    ])
    func shellSyntax(text: String, syntax: String?) throws { #expect(try ShellWords(text).shellSyntax == syntax) }

    @Test(arguments: [
        ("api-sever", "api-server"), ("API", "api"), ("wbe", "web"), ("a", nil), ("xyzzy", nil), ("", nil),
        ("ap", "api"), ("w", nil), ("ab", nil),
        (String(repeating: "a", count: 1_000), nil),
    ])
    func suggestions(word: String, nearest: String?) {
        #expect(Suggestion.nearest(to: word, among: ["web", "api-server", "api", "api-gateway"]) == nearest)
    }
}
