import Testing

@testable import ComposeFiles

struct InterpolationTests {
    @Test(arguments: [
        ("x", "x"), ("$A", "1"), ("${A}b", "1b"), ("$Ab", ""), ("$$A", "$A"), ("${N-d}", "d"), ("${E-d}", ""),
        ("${E:-d}", "d"),
        ("${A:-d}", "1"), ("${A:+y}", "y"), ("${N+y}", ""), ("${E+y}", "y"), ("${E:+y}", ""),
        ("${N:-${A}${M:-z}}!", "1z!"),
        ("${N:-}", ""), ("${N:-a:b}", "a:b"), ("${A:?no}", "1"), ("${N:-$$}", "$"), ("a$A$A", "a11"),
        ("${N:-{}}", "{}"),
    ])
    func interpolation(text: String, expanded: String) throws {
        var interpolation = Interpolation(environment: ["A": "1", "E": ""])
        #expect(try interpolation.expand(text, at: Position(line: 1, column: 1)) == expanded)
    }
}
