import Libc

/// Connects a dialogue to a terminal, which is in raw mode as long as this value lives.
struct TerminalDriver: ~Copyable {
    private let input: CInt
    private let output: CInt
    private var decoder = KeyDecoder()
    private var renderer: ANSIRenderer
    private var signals: SignalWatch

    /// The most keys that are handled before the screen is drawn.
    private static let mostUnseen = 256

    init(input: CInt, output: CInt, colors: Bool) throws(TerminalError) {
        self.input = input
        self.output = output
        self.renderer = ANSIRenderer(colors: colors)
        // Before the terminal changes, so that no signal is missed from then on.
        let signals = try SignalWatch()
        try RawMode.enter(input: input, output: output)
        self.signals = signals
    }

    deinit {
        RawMode.leave()
    }

    private enum Event {
        case byte(UInt8)
        case nothing
        case signal(CInt)
    }

    mutating func run<D: Dialogue>(_ dialogue: inout D) throws(TerminalError) -> DialogueResult<D.Choice> {
        var unseen = 1
        while true {
            // Handle all available keys before drawing once.
            if unseen > 0, unseen >= Self.mostUnseen || !self.hasInput {
                self.draw(dialogue)
                unseen = 0
            }
            var keys: [Key] = []
            switch try self.wait() {
            case .byte(let byte): keys = self.decoder.decode(CollectionOfOne(byte))
            case .nothing: keys = self.decoder.expire()
            case .signal(let number):
                if self.handle(signal: number) { return .interrupted }
                unseen += 1
            }
            for key in keys {
                unseen += 1
                if key == .control("z") {
                    try self.suspend()
                    continue
                }
                switch dialogue.handle(key) {
                case .continue: continue
                case .chosen(let choice): return .chosen(choice)
                case .cancelled: return .cancelled
                case .interrupted: return .interrupted
                }
            }
        }
    }

    private mutating func draw(_ dialogue: some Dialogue) {
        let size = SystemCalls.sizeOfTerminal(self.output)
        SystemCalls.writeAll(
            self.renderer.draw(dialogue.screen(width: size.width, height: size.height)),
            to: self.output
        )
    }

    private var hasInput: Bool {
        var ready = pollfd(fd: self.input, events: Int16(POLLIN), revents: 0)
        return poll(&ready, 1, 0) > 0
    }

    private mutating func wait() throws(TerminalError) -> Event {
        while true {
            var ready = [
                pollfd(fd: self.signals.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: self.input, events: Int16(POLLIN), revents: 0),
            ]
            let count = poll(&ready, nfds_t(ready.count), self.decoder.isWaiting ? KeyDecoder.patience : -1)
            if count < 0 {
                if errno == EINTR || errno == EAGAIN { continue }
                throw .last("the terminal can't be read")
            }
            if count == 0 { return .nothing }
            if let number = self.signals.next() { return .signal(number) }
            if ready[1].revents == 0 { continue }
            // One byte at a time: input after the last key of this question belongs to the next question, or to the shell.
            var byte: UInt8 = 0
            switch read(self.input, &byte, 1) {
            case 1: return .byte(byte)
            case 0: throw .closed
            default:
                switch errno {
                case EINTR, EAGAIN: continue
                case EIO, ENXIO: throw .closed
                default: throw .last("the terminal can't be read")
                }
            }
        }
    }

    /// True: the question is over.
    private mutating func handle(signal number: CInt) -> Bool {
        switch number {
        case SIGWINCH:
            self.renderer.forget()
            return false
        case SIGTSTP:
            do { try self.suspend() } catch { return true }
            return false
        case SIGCONT:
            // The process was stopped by SIGSTOP, which can't be handled, and goes on now.
            RawMode.renew()
            self.renderer.forget()
            return false
        case SIGINT:
            return true
        default:
            // Restore the terminal, then let the signal do what it would do without the question.
            RawMode.leave()
            self.signals.stop()
            raise(number)
            return true
        }
    }

    /// Ctrl-Z: the shell gets its terminal back as it was; after `fg` the question is drawn again.
    private mutating func suspend() throws(TerminalError) {
        RawMode.leave()
        self.signals.stop()
        SignalWatch.stopGroup()
        self.signals.start()
        try RawMode.enter(input: self.input, output: self.output)
        self.renderer.forget()
    }
}
