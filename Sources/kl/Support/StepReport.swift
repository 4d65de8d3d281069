import HostSupport
import Interactive
import Libc

/// Reports steps to a person on standard output: the current wait while it lasts, and a line for each finished step.
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

    /// Runs the body. If it throws, takes the current wait off the screen.
    func endingOnError<Result>(_ body: () throws -> Result) rethrows -> Result {
        do { return try body() } catch {
            self.progress.end()
            throw error
        }
    }

    /// Runs the body, then takes the current wait off the screen, even if the body throws.
    func ending<Result>(_ body: () throws -> Result) rethrows -> Result {
        defer { self.progress.end() }
        return try body()
    }
}
