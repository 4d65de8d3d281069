import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// The terminal while it hands over each key as it is pressed.
///
/// How it was before is kept for the whole process, so that the end of the process, from whatever thread, brings it back
/// too. A process has one terminal, hence one of these.
enum RawMode {
    private struct Saved: Sendable {
        var input: CInt
        var output: CInt
        var settings: termios
    }

    private static let saved = Mutex<Saved?>(nil)
    /// Whoever calls `exit` while a question is open leaves no terminal behind that doesn't echo.
    private static let leavesAtExit: CInt = atexit { RawMode.leave() }

    static func enter(input: CInt, output: CInt) throws(TerminalError) {
        guard self.leavesAtExit == 0 else { throw .last("the terminal can't be set up") }
        let failure: TerminalError? = self.saved.withLock { saved in
            guard saved == nil else { return .busy }
            var settings = termios()
            guard tcgetattr(input, &settings) == 0 else {
                return errno == ENOTTY ? .notATerminal : .last("the terminal can't be set up")
            }
            guard self.apply(settings, to: input) else { return .last("the terminal can't be set up") }
            saved = Saved(input: input, output: output, settings: settings)
            SystemCalls.writeAll(ANSIRenderer.beginning, to: output)
            return nil
        }
        if let failure { throw failure }
    }

    /// A shell has set the terminal to its own liking, since this process was stopped meanwhile.
    static func renew() {
        self.saved.withLock { saved in
            guard let saved else { return }
            _ = self.apply(saved.settings, to: saved.input)
            SystemCalls.writeAll(ANSIRenderer.beginning, to: saved.output)
        }
    }

    static func leave() {
        self.saved.withLock { saved in
            guard var was = saved else { return }
            saved = nil
            SystemCalls.writeAll(ANSIRenderer.ending, to: was.output)
            while tcsetattr(was.input, TCSADRAIN, &was.settings) != 0, errno == EINTR {}
        }
    }

    private static func apply(_ settings: termios, to input: CInt) -> Bool {
        var raw = settings
        cfmakeraw(&raw)
        // Line feeds of other threads' output go on to start a line.
        raw.c_oflag = settings.c_oflag
        // What was typed ahead stays.
        while tcsetattr(input, TCSADRAIN, &raw) != 0 {
            if errno != EINTR { return false }
        }
        return true
    }
}
