public import ArgumentParser
import CommandText
import InterceptProtocol
import Libc

/// How a program ends: its last message, where that goes, and the exit code. Scripts rely on the codes: 0 done, 1 failed, 2
/// wrong usage, 5 intercepted by another workspace, 130 interrupted.
public struct Ending {
    let text: String
    let code: CInt

    /// `--help` and `--version` arrive as errors, too.
    public init<Root: ParsableCommand>(of error: any Error, in root: Root.Type) {
        let name = root._commandName
        let code = root.exitCode(for: error)
        if code.isSuccess {
            self.text = root.fullMessage(for: error) + "\n"
            self.code = 0
        } else if code == .validationFailure {
            self.text = "\(name): \(root.fullMessage(for: error).trimmingPrefix("Error: "))\n"
            self.code = Self.wrongUsage
        } else {
            self.text = "\(name): \(error)\n"
            // Some flags' values are checked only once the program runs.
            self.code = (error as? any ExitCoded)?.exitCode ?? (error is FlagError ? Self.wrongUsage : Self.failed)
        }
    }

    /// Ends with a sentence, or silently if it is nil.
    public init(name: String, saying sentence: String?, code: CInt) {
        self.text = sentence.map { "\(name): \($0)\n" } ?? ""
        self.code = code
    }

    /// Inserts another sentence at the end of the first line.
    func adding(_ sentence: String) -> Ending {
        let lines = self.text.split(separator: "\n", maxSplits: 1, omittingEmptySubsequences: false)
        let first = lines.first.map { $0.hasSuffix(".") ? "\($0) \(sentence)" : "\($0). \(sentence)" } ?? sentence
        return Ending(text: ([first] + lines.dropFirst().map(String.init)).joined(separator: "\n"), code: self.code)
    }

    private init(text: String, code: CInt) {
        self.text = text
        self.code = code
    }

    public static let done: CInt = 0
    public static let failed: CInt = 1
    public static let wrongUsage: CInt = 2
    public static let busy: CInt = 5
    public static let interrupted: CInt = 130

    public func exit() -> Never {
        guard self.code == 0 else {
            Console.write(self.text, to: STDERR_FILENO)
            systemExit(self.code)
        }
        Console.write(self.text, to: STDOUT_FILENO)
        Console.closeOutput()
        guard let failure = Console.outputFailure else { systemExit(0) }
        // The command succeeded, but its output is incomplete.
        let program = CommandLine.arguments.first?.split(separator: "/").last ?? "kl"
        let sentence = "\(program): \(failure). Make room there, or send it elsewhere, and ask again.\n"
        Console.write(sentence, to: STDERR_FILENO)
        systemExit(Self.failed)
    }
}

/// An error with an exit code of its own, which scripts rely on.
public protocol ExitCoded: Error {
    var exitCode: CInt { get }
}

/// `exit` is a method's name above.
private func systemExit(_ code: CInt) -> Never {
    exit(code)
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
