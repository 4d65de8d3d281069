import Libc

/// Asks the user at the terminal. Keys come from standard input, screens go to standard error, so that standard output is
/// left for the program's result.
public enum Terminal {
    /// Whether there is a terminal to ask at.
    public static func isInteractive(input: CInt = STDIN_FILENO, output: CInt = STDERR_FILENO) -> Bool {
        isatty(input) == 1 && self.canDraw(on: output)
    }

    /// Whether rows can be redrawn there.
    static func canDraw(on descriptor: CInt) -> Bool {
        isatty(descriptor) == 1 && !["", "dumb"].contains(SystemCalls.environment("TERM") ?? "")
    }

    public static func pick(_ picker: Picker) throws(TerminalError) -> PickerResult {
        try self.run(picker)
    }

    public static func ask(_ prompt: LinePrompt) throws(TerminalError) -> PromptResult {
        try self.run(prompt)
    }

    /// Prints a line on the same terminal.
    public static func say(_ line: String) {
        SystemCalls.writeAll(DisplayText(line).text + "\n", to: STDERR_FILENO)
    }

    /// Whether colours are wanted (no-color.org).
    static var usesColors: Bool { (SystemCalls.environment("NO_COLOR") ?? "").isEmpty }

    static func run<D: Dialogue>(
        _ dialogue: D,
        input: CInt = STDIN_FILENO,
        output: CInt = STDERR_FILENO
    ) throws(TerminalError) -> DialogueResult<D.Choice> {
        guard self.isInteractive(input: input, output: output) else { throw .notATerminal }
        var dialogue = dialogue
        dialogue.symbols = .ofTerminal
        let result: DialogueResult<D.Choice>
        do {
            var driver = try TerminalDriver(input: input, output: output, colors: self.usesColors)
            result = try driver.run(&dialogue)
        }
        if case .chosen(let choice) = result, let record = dialogue.record(of: choice) {
            SystemCalls.writeAll(record + "\n", to: output)
        }
        return result
    }
}

extension Symbols {
    public static var ofTerminal: Symbols {
        Symbols(environment: SystemCalls.environment(["LC_ALL", "LC_CTYPE", "LANG", "TERM"]))
    }
}
