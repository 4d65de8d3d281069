import Libc
import Synchronization

/// The descriptor to which the handlers write the number of a signal; -1: no `SignalWatch` exists.
private let watchedPipe = Atomic<CInt>(-1)

/// Turns signals into bytes of a pipe, so that one `poll` waits for keys and signals. When this value ends, the signals get
/// their previous handlers back.
struct SignalWatch: ~Copyable {
    private static let watched = [SIGWINCH, SIGCONT, SIGTSTP, SIGINT, SIGTERM, SIGHUP, SIGQUIT]

    /// Readable once a signal has come.
    let descriptor: CInt
    private let writeEnd: CInt
    private var before: [(number: CInt, action: sigaction)] = []

    init() throws(TerminalError) {
        var ends: [CInt] = [-1, -1]
        guard pipe(&ends) == 0 else { throw .last("signals can't be watched") }
        self.descriptor = ends[0]
        self.writeEnd = ends[1]
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        watchedPipe.store(self.writeEnd, ordering: .sequentiallyConsistent)
        self.start()
    }

    deinit {
        Self.restore(self.before)
        watchedPipe.store(-1, ordering: .sequentiallyConsistent)
        close(self.descriptor)
        close(self.writeEnd)
    }

    /// The earliest signal that hasn't been returned yet.
    func next() -> CInt? {
        var number: UInt8 = 0
        return read(self.descriptor, &number, 1) == 1 ? CInt(number) : nil
    }

    mutating func start() {
        for number in Self.watched {
            var old = sigaction()
            guard sigaction(number, nil, &old) == 0 else { continue }
            // A signal that is ignored stays so: nohup, and shells that start a program in the background, want it.
            if old.ignores { continue }
            var new = sigaction(handler: { note($0) })
            if sigaction(number, &new, nil) == 0 { self.before.append((number, old)) }
        }
    }

    mutating func stop() {
        Self.restore(self.before)
        self.before = []
    }

    private static func restore(_ actions: [(number: CInt, action: sigaction)]) {
        for (number, action) in actions {
            var action = action
            _ = sigaction(number, &action, nil)
        }
    }

    /// Stops the process group as Ctrl-Z does in a terminal, and returns once it is continued.
    static func stopGroup() {
        var before = sigaction()
        // A shell without job control ignores SIGTSTP: it could never continue the process.
        guard sigaction(SIGTSTP, nil, &before) == 0, !before.ignores else { return }
        var ignoring = sigaction(handler: SIG_IGN)
        _ = sigaction(SIGTSTP, &ignoring, nil)
        kill(0, SIGTSTP)
        var stopping = sigaction(handler: SIG_DFL)
        _ = sigaction(SIGTSTP, &stopping, nil)
        // To this thread, so that it goes no further until the process is continued.
        raise(SIGTSTP)
        _ = sigaction(SIGTSTP, &before, nil)
    }
}

/// A signal handler: only what signal-safety(7) allows.
private func note(_ number: CInt) {
    let code = errno
    let descriptor = watchedPipe.load(ordering: .relaxed)
    var byte = UInt8(truncatingIfNeeded: number)
    if descriptor >= 0 { _ = write(descriptor, &byte, 1) }
    errno = code
}

// The handler is in a union, whose name is different in each C library.
extension sigaction {
    fileprivate typealias Handler = @convention(c) (CInt) -> Void

    fileprivate init(handler: Handler?) {
        self.init()
        #if canImport(Glibc)
        self.__sigaction_handler.sa_handler = handler
        #elseif canImport(Musl)
        self.__sa_handler.sa_handler = handler
        #else
        self.__sigaction_u.__sa_handler = handler
        #endif
        self.sa_flags = CInt(SA_RESTART)
    }

    fileprivate var ignores: Bool {
        #if canImport(Glibc)
        let handler = self.__sigaction_handler.sa_handler
        #elseif canImport(Musl)
        let handler = self.__sa_handler.sa_handler
        #else
        let handler = self.__sigaction_u.__sa_handler
        #endif
        return unsafeBitCast(handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
    }
}
