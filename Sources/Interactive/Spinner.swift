import Libc

/// Shows on a thread of its own that something takes a while. The thread gets everything at its start, and nothing of that
/// changes; while it lives, no other thread writes to the terminal. So no lock is needed.
struct Spinner: ~Copyable {
    private let thread: pthread_t
    /// Closed to end the thread.
    private let stopEnd: CInt
    private let waitEnd: CInt

    /// Nil if no thread can be made: then there is just no spinner.
    init?(_ body: @escaping @Sendable (_ stop: CInt) -> Void) {
        var ends: [CInt] = [-1, -1]
        guard pipe(&ends) == 0 else { return nil }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        let waitEnd = ends[0]
        let work = Unmanaged.passRetained(Work { body(waitEnd) })

        // Block all signals in the new thread: they are for the threads that expect them.
        var all = sigset_t()
        var before = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_SETMASK, &all, &before)
        #if canImport(Darwin)
        var thread: pthread_t?
        let result = pthread_create(&thread, nil, { runWork($0) }, work.toOpaque())
        #else
        var thread = pthread_t()
        let result = pthread_create(&thread, nil, { $0.flatMap(runWork) }, work.toOpaque())
        #endif
        pthread_sigmask(SIG_SETMASK, &before, nil)
        #if canImport(Darwin)
        guard result == 0, let thread else {
            work.release()
            for end in ends { close(end) }
            return nil
        }
        #else
        guard result == 0 else {
            work.release()
            for end in ends { close(end) }
            return nil
        }
        #endif
        self.thread = thread
        self.stopEnd = ends[1]
        self.waitEnd = waitEnd
    }

    /// Ends the thread. What it drew last stays.
    deinit {
        close(self.stopEnd)
        pthread_join(self.thread, nil)
        close(self.waitEnd)
    }

    /// Called on the thread: false once it must end.
    static func pause(milliseconds: CInt, unless stop: CInt) -> Bool {
        let until = SystemCalls.seconds() + Double(milliseconds) / 1_000
        while true {
            let left = CInt(max(0, (until - SystemCalls.seconds()) * 1_000))
            var ending = pollfd(fd: stop, events: Int16(POLLIN), revents: 0)
            let count = poll(&ending, 1, left)
            if count == 0 { return true }
            if count > 0 || errno != EINTR { return false }
        }
    }
}

private final class Work: Sendable {
    let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) {
        self.body = body
    }
}

private func runWork(_ pointer: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer? {
    Unmanaged<Work>.fromOpaque(pointer).takeRetainedValue().body()
    return nil
}
