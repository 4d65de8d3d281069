import Testing

@testable import ComposeFiles

/// Files made to hurt, and files made at random.
struct ComposeBoundsTests {
    @Test func aliasesOfAliases() {
        var text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        for index in 1...40 {
            let alias = "*a\(index - 1)"
            text += "a\(index): &a\(index) [\([String](repeating: alias, count: 9).joined(separator: ", "))]\n"
        }
        #expect(failure(text)?.contains("with its aliases written out this is more than 8 MiB") == true)
        // As a key, which Yams would hash.
        let key = text.replacing("a40:", with: "? *a39\n:")
        #expect(failure(key)?.contains("more than 8 MiB") == true)
    }

    @Test func aliasesThatLieInOneAnother() {
        var text = "- &a0 [x]\n"
        for index in 1...40_000 { text += "- &a\(index) [*a\(index - 1)]\n" }
        #expect(failure(text)?.contains("more than 100 values lie in one another here") == true)
    }

    @Test(arguments: ["[", "{a: ", "- ", "? ", "a:\n ", "!!seq ["])
    func deep(opening: String) {
        let text = String(String(repeating: opening, count: 300_000).prefix(1_000_000))
        #expect(failure(text) != nil)
        #expect(failure("services:\n " + String(repeating: opening, count: 500)) != nil)
    }

    @Test func merges() {
        var text = "a: &a {"
        for index in 0..<5_000 { text += "k\(index): 1, " }
        text += "}\nb: {<<: [" + String(repeating: "*a, ", count: 5_000) + "]}\n"
        #expect(failure(text)?.contains("more than 8 MiB") == true)
    }

    @Test func variables() {
        let long = String(repeating: "x", count: 100_000)
        let uses = String(repeating: "$LONG", count: 10_000)
        #expect(
            failure("services: {a: {command: \(uses)}}", environment: ["LONG": long])?.contains("more than 8 MiB")
                == true
        )
        let deep = String(repeating: "${A:-", count: 1_000) + String(repeating: "}", count: 1_000)
        #expect(failure("services: {a: {command: '\(deep)'}}")?.contains("more than 16 deep") == true)
    }

    @Test func size() {
        #expect(failure(String(repeating: "#", count: 1_048_577))?.contains("is larger than 1 MiB") == true)
        let services = (0...1_000).map { "  s\($0): {command: x}\n" }.joined()
        #expect(
            failure("services:\n" + services)
                == "1002:3: there are 1001 services, and at most 1000 can be. Split the file."
        )
    }

    @Test func aCircleOfAThousand() throws {
        var text = "services:\n"
        for index in 0..<1_000 { text += "  s\(index): {command: x, depends_on: [s\((index + 1) % 1_000)]}\n" }
        #expect(failure(text)?.hasSuffix("s998 → s999 → s0. Take one of them out of 'depends_on'.") == true)
        #expect(try parse(text.replacing("depends_on: [s0]", with: "")).services.count == 1_000)
    }

    @Test func manyWarnings() throws {
        let keys = (0..<500).map { "k\($0): 1" }.joined(separator: ", ")
        let warnings = try parse("services: {a: {command: x, \(keys)}}").warnings
        #expect(warnings.count == 51)
        #expect(warnings.last == "/no/such/demo/compose.yaml: and 450 more warnings")
    }

    @Test func whatCannotBeSeen() {
        #expect(
            failure("services:\n  \"a\\e[31m\\u202e\\n\": {command: x}\n")?.hasPrefix(
                "2:3: 'a[31m ' can't be a service's name"
            )
                == true
        )
        #expect(
            failure("services: {a: {command: x, restart: '\(String(repeating: "y", count: 500))'}}")?.count ?? 0 < 200
        )
    }

    /// Pieces of a good file, put together and cut at random. What comes out doesn't matter; that something does.
    @Test(arguments: 0..<40)
    func garbage(seed: UInt64) {
        var random = Random(state: seed &+ 1)
        let pieces = [
            "services:", "\n", "\n  ", "\n    ", "a:", " ", "command: ", "x", "ports:", "- ", "\"80:81\"", "[", "]",
            "{", "}", ",",
            "&a ", "*a", "<<: ", "? ", ": ", "'", "\"", "|", ">", "#", "!!str ", "!", "%", "@", "`", "\\", "\t", "$",
            "${A", "}",
            "${A:-b}", "$$", "depends_on: ", "environment:", "A=b", "*", "\u{E000}", "é", "\u{FEFF}", "\r", "---",
            "...", "\0", "~",
            "name: ", "env_file: ", "1", "-", "\u{1F600}", "\u{301}", "\\u0041", "\"\\uD800\"", "\"\\x00\"",
        ]
        for _ in 0..<250 {
            var text = random.next() % 2 == 0 ? "services:\n  a:\n    command: x\n" : ""
            for _ in 0..<(random.next() % 40) { text += pieces[Int(random.next() % UInt64(pieces.count))] }
            _ = failure(text, environment: ["A": "*x: ["])
        }
    }

    /// xorshift64*
    struct Random {
        var state: UInt64
        mutating func next() -> UInt64 {
            self.state ^= self.state >> 12
            self.state ^= self.state << 25
            self.state ^= self.state >> 27
            return (self.state &* 0x2545_F491_4F6C_DD1D) >> 11
        }
    }
}
