public import ArgumentParser
import CommandText
public import HostSupport
import Libc

extension Ending {
    /// `--help` and `--version` arrive as errors, too.
    public init<Root: ParsableCommand>(of error: any Error, in root: Root.Type) {
        let name = root._commandName
        let code = root.exitCode(for: error)
        if code.isSuccess {
            self.init(text: root.fullMessage(for: error) + "\n", code: Self.done)
        } else if code == .validationFailure {
            let message = root.fullMessage(for: error).trimmingPrefix("Error: ")
            self.init(text: "\(name): \(message)\n", code: Self.wrongUsage)
        } else {
            // Some flags' values are checked only once the program runs.
            let fallback = error is FlagError ? Self.wrongUsage : Self.failed
            self.init(text: "\(name): \(error)\n", code: (error as? any ExitCoded)?.exitCode ?? fallback)
        }
    }
}

extension ParsableCommand {
    /// Like the usual `main`, with the exit codes and the one-sentence errors that all programs here share.
    ///
    /// It isn't async itself, so that a command that isn't either runs on the first thread, before any other exists, and
    /// can block signals for all threads.
    /// - Parameter hint: given the typed words, returns a sentence to add to a usage error: "Did you mean …?"
    public static func runAsProgram(hint: ([String]) -> String? = { _ in nil }) {
        do {
            if CommandLine.arguments.dropFirst().first == "---completion" { Self.completeAsAsked() }
            var command = try parseAsRoot()
            if let waiting = command as? any AsyncParsableCommand { Self.runToTheEnd(waiting) }
            try command.run()
            Ending(name: Self._commandName, saying: nil, code: Ending.done).exit()
        } catch {
            let ending = Ending(of: error, in: Self.self)
            guard ending.code == Ending.wrongUsage, let hint = hint(Array(CommandLine.arguments.dropFirst())) else {
                ending.exit()
            }
            ending.adding(hint).exit()
        }
    }

    /// Answers a shell's completion request; some of the answers need async calls.
    private static func completeAsAsked() {
        guard let program = Self.self as? any AsyncParsableCommand.Type else { return }
        Task {
            do {
                _ = try await program.asyncParseAsRoot()
                Ending(name: Self._commandName, saying: nil, code: Ending.done).exit()
            } catch {
                Ending(of: error, in: Self.self).exit()
            }
        }
        while true { pause() }
    }

    private static func runToTheEnd(_ command: sending any AsyncParsableCommand) -> Never {
        Task {
            var command = command
            do {
                try await command.run()
                Ending(name: Self._commandName, saying: nil, code: Ending.done).exit()
            } catch {
                Ending(of: error, in: Self.self).exit()
            }
        }
        while true { pause() }
    }
}
