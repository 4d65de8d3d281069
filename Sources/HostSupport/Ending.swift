import Libc

/// How a program ends: its last message, where that goes, and the exit code. Scripts rely on the codes: 0 done, 1 failed, 2
/// wrong usage, 5 intercepted by another workspace, 130 interrupted.
public struct Ending {
    public let text: String
    public let code: CInt

    /// Ends with a sentence, or silently if it is nil.
    public init(name: String, saying sentence: String?, code: CInt) {
        self.text = sentence.map { "\(name): \($0)\n" } ?? ""
        self.code = code
    }

    /// Inserts another sentence at the end of the first line.
    public func adding(_ sentence: String) -> Ending {
        let lines = self.text.split(separator: "\n", maxSplits: 1, omittingEmptySubsequences: false)
        let first = lines.first.map { $0.hasSuffix(".") ? "\($0) \(sentence)" : "\($0). \(sentence)" } ?? sentence
        return Ending(text: ([first] + lines.dropFirst().map(String.init)).joined(separator: "\n"), code: self.code)
    }

    public init(text: String, code: CInt) {
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
