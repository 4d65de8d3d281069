import AgentSupport
import Interactive

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Steps as a person sees them come, on standard output: what is waited for while it is, and a line once it is there.
struct StepReport {
    private let isOn: Bool
    private let progress: Progress

    init(isOn: Bool) {
        self.isOn = isOn
        self.progress = Progress(descriptor: STDOUT_FILENO, form: isOn ? nil : .silent)
    }

    func line(_ text: String) { if self.isOn { Console.write(text + "\n", to: STDOUT_FILENO) } }

    func waiting(_ text: String) { self.progress.begin(text) }

    func done(_ text: String, _ seconds: Double?) {
        self.progress.succeed(text, seconds: seconds)
        Console.noteOutputFailure(self.progress.failure)
    }

    /// Takes what is waited for off the screen, however it ends.
    func ending<Result>(_ body: () throws -> Result) rethrows -> Result {
        defer { self.progress.end() }
        return try body()
    }
}
