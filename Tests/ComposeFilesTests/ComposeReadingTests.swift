import Environments
import InterceptModel
import Libc
import TestSupport
import Testing

@testable import ComposeFiles

/// What Compose reads, written down: of `.env` and `env_file`, of variables in values, of numbers, and of keys that stand twice.
struct ComposeReadingTests {
    private func environment(
        _ files: [String: String],
        callers: [String: String] = ["SHELL_A": "shell", "EMPTY": ""]
    ) throws -> [String: String] {
        let room = try Room()
        for (name, text) in files { try room.file(name, text) }
        return try #require(ComposeFile.read(path: room("compose.yaml"), environment: callers).services.first)
            .environment
    }

    /// Lines of `.env`, and what `V` is then. Nil: it isn't set.
    static let lines: [(String, String?)] = [
        ("H=db\nV=pg://${H}:5432", "pg://db:5432"), ("V=#ff8800", "#ff8800"), ("V= #c", "#c"), ("V=x # c", "x"),
        ("V=x\t# c", "x\t# c"), ("V=x#c", "x#c"), ("V=\"^\\d+\"", "^\\d+"), ("\u{FEFF}V=1", "1"),
        ("V=\"a\\nb\"", "a\nb"),
        ("V='a\\nb'", "a\\nb"), ("V='Let\\'s'", "Let's"), ("V=\"a\nb\"", "a\nb"), ("V='a\n\nb' # c\nX=", "a\n\nb"),
        ("V: value", "value"), ("V:value", "value"), ("V = x ", "x"), ("export V=x", "x"), ("export\tV=x", "x"),
        ("V=$", "$"), ("V=a $ b", "a $ b"), ("V=$1", "$1"), ("V=$$H", "$H"), ("V=\"\\$H\"", "$H"), ("V='$H'", "$H"),
        ("V=\\n", "\\n"), ("V=\"\\\\\"", "\\"), ("V='\\\\'", "\\\\"), ("V=\"a\\\"b\"", "a\"b"), ("V=\"\\0101\"", "A"),
        ("V=a\"b\"", "a\"b\""), ("V=\"a\"b\n", "a"), ("V=1\nV=2", "2"), ("V=${GONE:-d}", "d"), ("V", nil), ("X=1", nil),
        ("V=\r\nX=1\r\n", ""), ("V=a\r\n", "a"), ("SHELL_A=file\nV=$SHELL_A", "shell"), ("EMPTY=1\nV=${EMPTY}", ""),
        ("V=\"x\" X=2", "x"), ("V=${W}\nW=1", ""), ("v=1", nil), ("V=\"é🙂\"", "é🙂"), ("W=a\nV=\"$W\nb\"", "a\nb"),
        ("# V=1", nil), ("V={\"a\": 1}", "{\"a\": 1}"), ("V=a=b", "a=b"), ("A.b-c[0]=q\nV=1", "1"),
    ]

    @Test(arguments: lines)
    func defaults(text: String, value: String?) throws {
        let compose = "services: {a: {command: x, environment: [V]}}"
        #expect(try self.environment(["compose.yaml": compose, ".env": text])["V"] == value)
        // The same in a file of a service.
        let other = "services: {a: {command: x, env_file: a.env}}"
        #expect(try self.environment(["compose.yaml": other, "a.env": text])["V"] == value)
    }

    @Test(arguments: [
        ("A=1\nB=\"x", "2:3: a value's quotes aren't closed. Close them."),
        ("A=1\n\n  a b=1", "3:3: the name 'a b' holds a blank. Write NAME=VALUE, a value with blanks in quotes."),
        ("A=\"1\n2\"\n%=1", "3:1: '%=1' sets no variable. Write NAME=VALUE."),
        ("=1", "1:1: a value has no name before it. Write NAME=VALUE."),
        (" A=${B", "1:2: a '${' has no '}'. Close it, or write '$$' for a '$' itself."),
        ("A=${B:?no}", "1:1: the variable 'B' isn't set: no. Set it, then try again."),
    ])
    func placesInDefaults(text: String, message: String) throws {
        let room = try Room()
        try room.file(".env", text)
        let path = try room.file("compose.yaml", "services: {a: {command: x}}")
        let error = #expect(throws: Problem.self) { try ComposeFile.read(path: path, environment: [:]) }
        #expect(error?.description == "\(room(".env")):\(message)")
    }

    @Test func severalFiles() throws {
        let environment = try self.environment([
            "compose.yaml": """
            services:
              a:
                command: x
                env_file: [{path: none, required: False}, a, {path: raw, format: raw}, b, a]
                environment: {OWN: own, UNSET: , SHELL_A: }
            """,
            ".env": "D=d\n", "a": "A=1\nREF=$D-$OWN-$SHELL_A\nUNSET=1\nOWN=2\n", "b": "A=2\nB=$A\nSHELL_A\nD\n",
            "raw": "R=\"$A\" # r\n# c\nEMPTY\nNONE\n",
        ])
        #expect(
            environment == [
                "A": "2", "B": "2", "REF": "d-own-shell", "OWN": "own", "SHELL_A": "shell", "D": "d", "R": "\"$A\" # r",
                "EMPTY": "",
            ]
        )
    }

    /// Swift joins an accent or the rest of an emoji to the sign before it as one character.
    @Test func valuesThatBeginWithAnAccent() throws {
        let environment = try self.environment([
            "compose.yaml": """
            services:
              a:
                command: x
                env_file: [{path: raw, format: raw}, e]
                environment: ["L=\u{301}l"]
            """,
            "raw": "#\u{FE0F}\u{20E3} a comment\nR=\u{301}r\r\n", "e": "E=\u{301}e\n",
        ])
        #expect(environment == ["L": "\u{301}l", "R": "\u{301}r", "E": "\u{301}e"])
    }

    @Test(
        arguments: [
            ("x $ y", "x $ y"), ("$", "$"), ("$1 $. $-", "$1 $. $-"), ("$$A", "$A"), ("$$$A", "$a"),
            ("${A:-{\"b\": 1}}", "a"),
            ("${G:-{\"b\": 1}}", "{\"b\": 1}"), ("${G:-{}}x", "{}x"), ("${A:-{}}x", "ax"), ("${G:-${A}b}c", "abc"),
            ("${G-{}", "{"), ("${A:+{}}", "{}"), ("${E-x}", ""), ("${E:-x}", "x"), ("${E+x}", "x"), ("${E:+x}", ""),
            ("${A?no}", "a"), ("$A-$A.b", "a-a.b"), ("${A}}", "a}"),
        ]
    )
    func variables(text: String, value: String) throws {
        let quoted = "'\(text.replacing("'", with: "''"))'"
        let file = try parse("services: {a: {command: [x, \(quoted)]}}", environment: ["A": "a", "E": ""])
        #expect(file.services.first?.command == ["x", value])
    }

    @Test(arguments: ["${", "${}", "${1}", "${A!}", "${A", "${A:-x", "${ A}"])
    func notVariables(text: String) { #expect(failure("services: {a: {command: ['\(text)']}}") != nil) }

    @Test(
        arguments: [
            ("1.10", "1.1"), ("010", "8"), ("0x1F", "31"), ("0o17", "15"), ("0b11", "3"), ("1_000", "1000"),
            ("1e3", "1000"),
            ("09", "9"), ("08.5", "8.5"), ("True", "true"), ("FALSE", "false"), ("yes", "yes"), (".5", "0.5"),
            ("5.", "5"),
            ("-0", "0"), ("-0.0", "-0"), ("+5", "5"), ("1000000.0", "1e+06"), ("123456789.0", "1.23456789e+08"),
            ("0.00001", "1e-05"), ("1e21", "1e+21"), ("1.23456789012345678", "1.2345678901234567"), (".inf", "+Inf"),
            ("18446744073709551615", "18446744073709551615"), ("1e400", "1e400"), ("0b2", "0b2"), (".e00", ".e00"),
            ("12:30:45", "12:30:45"), ("1.2.3", "1.2.3"), ("'1.10'", "1.10"), ("!!str 1.10", "1.10"),
            ("$N", "1.10"), ("-9223372036854775808", "-9223372036854775808"), ("100000.5", "100000.5"),
        ]
    )
    func scalars(text: String, value: String) throws {
        let file = try parse(
            "services:\n a:\n  command: x\n  environment:\n   V: \(text)\n",
            environment: ["N": "1.10"]
        )
        #expect(file.services.first?.environment == ["V": value])
        #expect(file.warnings.isEmpty == (value == text || text.first == "'" || text.first == "!" || text == "$N"))
    }

    @Test func aNumberThatIsWrittenAnewIsTold() throws {
        let warnings = try parse("services: {a: {command: x, environment: {V: 1.10}}}").warnings
        #expect(
            warnings.map(withoutPath) == [
                "1:45: '1.10' is '1.1' here, as YAML and compose have it: in quotes it would be the text that it is"
            ]
        )
    }

    @Test(arguments: [
        (
            "services:\n  a:\n    command: sleep 1\n  b:\n    command: x\n    environment: {X: \"1\"}\n  b:\n    command: y\n",
            "7:3: the key 'b' is there already (line 4). Keep one of them."
        ),
        (
            "services: {a: {command: x, 'command' : y}}",
            "1:28: the key 'command' is there already (column 16). Keep one of them."
        ),
        (
            "services: {a: {b: [\"}, b: \", {b: 1}],\n  b: 2}}",
            "2:3: the key 'b' is there already (line 1). Keep one of them."
        ),
        ("- c: 1\n  b: 'c:'\n  c: 2\n", "3:3: the key 'c' is there already (line 1). Keep one of them."),
        ("\"a\": 1\nb:\n- a: 1\na: 2\n", "4:1: the key 'a' is there already (line 1). Keep one of them."),
        ("a*: 1\r\n# a*: \r\na*: 2\r\n", "3:1: the key 'a*' is there already (line 1). Keep one of them."),
        ("\"\\u0061\": 1\na: 2\n", "1:1: the key 'a' is there more than once. Keep one of them."),
    ])
    func keysThatStandTwice(text: String, message: String) { #expect(failure(text) == message) }

    @Test func whatAnAnchorSaysIsWarnedOfOnce() throws {
        let file = try parse(
            "x-c: &c\n  image: x\n  command: sleep 100 $GONE\nservices:\n  a: {<<: *c}\n  b: {<<: *c}\n  c: {<<: *c}\n"
        )
        #expect(
            file.warnings.map(withoutPath) == [
                "2:3: 'image' is ignored: a service of a local environment is a process of this machine",
                "3:12: the variable 'GONE' isn't set: it is empty here",
            ]
        )
    }

    @Test func unsetNamesAreToldWhereTheyStand() throws {
        let room = try Room()
        try room.file(".env", "A=1\nB=$GONE$GONE\n")
        try room.file("a.env", "\n  C=$GONE\nD=$A$OTHER\n")
        let path = try room.file(
            "compose.yaml",
            "services:\n  a: {command: x $GONE, env_file: a.env}\n  b: {command: y $GONE, env_file: a.env}\n"
        )
        #expect(
            try ComposeFile.read(path: path, environment: [:]).warnings.map { $0.replacing(room.path + "/", with: "") }
                == [
                    ".env:2:1: the variable 'GONE' isn't set: it is empty here",
                    "compose.yaml:2:16: the variable 'GONE' isn't set: it is empty here",
                    "a.env:2:3: the variable 'GONE' isn't set: it is empty here",
                    "a.env:3:1: the variable 'OTHER' isn't set: it is empty here",
                ]
        )
    }

    @Test(arguments: [
        "label_file", "models", "use_api_socket", "pre_start", "pull_refresh_after", "image", "volumes", "profiles",
    ])
    func keysOfCompose(key: String) throws {
        let warning = try parse("services: {a: {command: x, \(key): y}}").warnings.first
        #expect(warning?.contains("isn't a key") == false)
    }

    @Test(arguments: ["True", "yes", "\"on\"", "TRUE", "y", "True"])
    func truths(text: String) {
        #expect(
            failure("services: {a: {command: x, env_file: [{path: none, required: \(text)}]}}")?.contains(
                "there is no /no"
            )
                == true
        )
    }

    @Test(arguments: ["False", "no", "\"off\"", "FALSE", "n", "'false'"])
    func untruths(text: String) throws {
        _ = try parse("services: {a: {command: x, env_file: [{path: none, required: \(text)}]}}")
        let file = try parse(
            "services: {a: {command: x, depends_on: {b: {condition: service_started, required: \(text)}}}}"
        )
        #expect(file.services.first?.dependsOn == [])
    }

    @Test func neither() {
        #expect(
            failure("services: {a: {command: x, env_file: [{path: none, required: 0}]}}")
                == "1:62: 'required' takes true or false, and this is '0'. Correct the file."
        )
    }
}
