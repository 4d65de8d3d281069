import HostSupport
import Libc
import Synchronization

/// Makes Ctrl-C, SIGTERM and SIGHUP something to wait for, so that what was begun can be undone before the program ends.
enum Interrupt {
    /// Readable once one of the signals has come. The handlers are installed at its first use.
    static let descriptor: CInt = {
        guard let pipe = try? Pipe() else { return -1 }
        pipe.makeNonblocking()
        writeEnd.store(pipe.writer, ordering: .relaxed)
        signal(SIGINT) { _ in Interrupt.note() }
        signal(SIGTERM) { _ in Interrupt.note() }
        signal(SIGHUP) { _ in Interrupt.note() }
        return pipe.reader
    }()

    /// Runs in a signal handler, so it only calls write(2).
    private static func note() {
        var byte: UInt8 = 1
        _ = write(writeEnd.load(ordering: .relaxed), &byte, 1)
    }

    /// Clears signals that have been dealt with, so that only the next one counts.
    static func forget() {
        var bytes: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0]
        while read(self.descriptor, &bytes, bytes.count) > 0 {}
    }
}

private let writeEnd = Atomic<CInt>(-1)
