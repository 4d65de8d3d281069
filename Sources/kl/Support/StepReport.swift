import AgentSupport
import Interactive

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Steps as a person sees them come: what is waited for while it is, and a line once it is there.
struct StepReport {
    private let isOn: Bool

    init(isOn: Bool) { self.isOn = isOn }

    mutating func heading(_ text: String) { self.line(text) }

    mutating func line(_ text: String) { if self.isOn { Console.write(text + "\n", to: STDOUT_FILENO) } }

    mutating func waiting(_ text: String) {}

    mutating func done(_ text: String, _ seconds: Double?) {
        let line = "  ✓ " + text
        let time = seconds.map { Times.seconds($0) } ?? ""
        let gap = String(repeating: " ", count: max(2, Self.width - line.count))
        self.line(time.isEmpty ? line : line + gap + time)
    }

    /// Where the times begin, unless a line is longer.
    private static let width = 61

    /// Takes what is waited for off the screen, however it ends.
    mutating func ending<Result>(_ body: (inout StepReport) throws -> Result) rethrows -> Result {
        try body(&self)
    }
}
