import ArgumentParser

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// How the program ends: what it says, where, and with which code. Scripts rely on the codes: 0 done, 1 failed, 2 wrong
/// usage.
struct Ending {
    private static let failed: CInt = 1
    private static let wrongUsage: CInt = 2

    private let text: String
    private let code: CInt

    /// Also for what is no error: `--help` and `--version` come as such.
    init(of error: any Error) {
        let code = Kl.exitCode(for: error)
        if code.isSuccess {
            text = Kl.fullMessage(for: error) + "\n"
            self.code = 0
        } else if code == .validationFailure {
            text = "kl: \(Kl.fullMessage(for: error).trimmingPrefix("Error: "))\n"
            self.code = Self.wrongUsage
        } else {
            text = "kl: \(error)\n"
            self.code = Self.failed
        }
    }

    func exit() -> Never {
        Console.write(text, to: code == 0 ? STDOUT_FILENO : STDERR_FILENO)
        systemExit(code)
    }
}

/// `exit` is a method's name above.
private func systemExit(_ code: CInt) -> Never {
    exit(code)
}
