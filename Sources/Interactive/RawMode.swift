import Libc
import Synchronization

/// Raw mode: the terminal passes on each key when it is pressed.
///
/// The previous settings are kept in a global, so that the process's end, on any thread, restores them, too. A process has
/// only one terminal.
enum RawMode {
    private struct Saved: Sendable {
        var input: CInt
        var output: CInt
        var settings: termios
    }

    private static let saved = Mutex<Saved?>(nil)
    /// If the process calls `exit` while a question is open, the terminal must not stay without echo.
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

    /// Sets raw mode again: while this process was stopped, the shell has changed the terminal's settings.
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
        // Keep output processing, so that line feeds in other threads' output still return to the start of the line.
        raw.c_oflag = settings.c_oflag
        // TCSADRAIN keeps input that was typed ahead.
        while tcsetattr(input, TCSADRAIN, &raw) != 0 {
            if errno != EINTR { return false }
        }
        return true
    }
}
