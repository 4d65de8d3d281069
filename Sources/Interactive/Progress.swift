import Libc

/// Shows the steps of something that takes a while:
///
///       ⠹ waiting for the tunnel  1.4 s
///       ✓ sidecar running next to api-server                       0.2 s
///       ✗ the tunnel didn't come up
///
/// On a terminal the running step has a spinner. Elsewhere each finished step is a line, and so is a step that lasts long.
public final class Progress {
    public enum Form: Equatable, Sendable {
        case turning
        case lines
        case silent

        /// The form that suits the descriptor: a terminal, or a file or pipe.
        public static func suited(to descriptor: CInt) -> Form {
            Terminal.canDraw(on: descriptor) ? .turning : .lines
        }
    }

    private let descriptor: CInt
    private let form: Form
    private let symbols: Symbols
    private let usesColors: Bool
    private var spinner: Spinner?
    private var running: String?
    private var began = 0.0
    /// Why a finished step's line couldn't be written (errno); 0 while all could.
    public private(set) var failure: CInt = 0

    /// The column of the seconds, unless the text is longer.
    private static let columnOfSeconds = 61
    /// In milliseconds: the time of each picture of the spinner, and the time after which a running step gets a line where
    /// there is no spinner.
    private static let turn: CInt = 80
    private static let longStep: CInt = 1_000

    public init(descriptor: CInt = STDERR_FILENO, form: Form? = nil) {
        self.descriptor = descriptor
        self.form = form ?? .suited(to: descriptor)
        self.symbols = .ofTerminal
        self.usesColors = Terminal.usesColors && self.form == .turning
    }

    /// Begins a step. A step that was running ends without a line.
    public func begin(_ text: String) {
        self.end()
        self.running = text
        self.began = SystemCalls.seconds()
        self.startSpinner()
    }

    /// Ends the step as done. Without a text, the text of its beginning is used.
    /// - Parameter seconds: how long it took; nil: not shown.
    public func succeed(_ text: String? = nil, seconds: Double? = nil) {
        let text = text ?? self.running ?? ""
        self.end()
        self.write(mark: self.symbols.done, color: "32", text, seconds)
    }

    public func fail(_ text: String? = nil, seconds: Double? = nil) {
        let text = text ?? self.running ?? ""
        self.end()
        self.write(mark: self.symbols.failed, color: "31", text, seconds)
    }

    /// Seconds since the step began.
    public var elapsed: Double { SystemCalls.seconds() - self.began }

    /// Ends the running step without a line.
    public func end() {
        self.stopSpinner()
        self.running = nil
    }

    /// Prints a line between the steps; the running step goes on below it.
    public func note(_ line: String) {
        self.stopSpinner()
        if self.form != .silent { SystemCalls.writeAll(DisplayText(line).text + "\n", to: self.descriptor) }
        if self.running != nil { self.startSpinner() }
    }

    deinit {
        self.stopSpinner()
    }

    private func write(mark: String, color: String, _ text: String, _ seconds: Double?) {
        guard self.form != .silent else { return }
        let text = DisplayText(text)
        let sign = self.usesColors ? "\u{1B}[\(color)m\(mark)\u{1B}[0m" : mark
        var line = "  \(sign) \(text.text)"
        if let seconds {
            let padding = max(2, Self.columnOfSeconds - 4 - text.width)
            line += String(repeating: " ", count: padding) + Self.text(ofSeconds: seconds)
        }
        let failure = SystemCalls.writeAll(line + "\n", to: self.descriptor)
        if failure != 0 { self.failure = failure }
    }

    /// `0.04 s`, `0.2 s`, `12.0 s`
    static func text(ofSeconds seconds: Double) -> String {
        let hundredths = Int(max(0, min(seconds, 1e9)) * 100 + 0.5)
        if hundredths < 10 { return "0.0\(hundredths) s" }
        let tenths = (hundredths + 5) / 10
        return "\(tenths / 10).\(tenths % 10) s"
    }

    private func startSpinner() {
        guard let text = self.running, self.spinner == nil else { return }
        let (descriptor, symbols, began) = (self.descriptor, self.symbols, self.began)
        switch self.form {
        case .silent: return
        case .turning:
            let accent = self.usesColors ? ("\u{1B}[36m", "\u{1B}[0m") : ("", "")
            self.spinner = Spinner { stop in
                var turns = 0
                repeat {
                    let sign = symbols.turning[turns % symbols.turning.count]
                    let seconds = SystemCalls.seconds() - began
                    let rest = seconds < 1 ? text : "\(text)  \(Self.text(ofSeconds: seconds))"
                    let width = SystemCalls.sizeOfTerminal(descriptor).width
                    // Cut to one row: otherwise the next picture would be drawn below it.
                    let row = LineBuilder(rest).line(width: width - 5, ellipsis: symbols.ellipsis).plainText
                    SystemCalls.writeAll("\r  \(accent.0)\(sign)\(accent.1) \(row)\u{1B}[J\r", to: descriptor)
                    turns += 1
                } while Spinner.pause(milliseconds: Self.turn, unless: stop)
            }
        case .lines:
            self.spinner = Spinner { stop in
                guard Spinner.pause(milliseconds: Self.longStep, unless: stop) else { return }
                SystemCalls.writeAll("  \(symbols.ellipsis) \(DisplayText(text).text)\n", to: descriptor)
            }
        }
    }

    private func stopSpinner() {
        guard self.spinner != nil else { return }
        self.spinner = nil
        if self.form == .turning { SystemCalls.writeAll("\r\u{1B}[J", to: self.descriptor) }
    }
}
