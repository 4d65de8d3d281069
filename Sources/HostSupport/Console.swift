import Libc
import Synchronization

/// Writes text for people, unbuffered, to standard output or error. If the reader has closed it, that isn't an error.
public enum Console {
    /// Why output to standard output is missing, such as a full disk. nil if nothing is missing, or if the reader has closed it.
    public static var outputFailure: HostError? {
        let code = lastFailure.load(ordering: .relaxed)
        return code == 0 ? nil : HostError("the output can't be written", code: code)
    }

    /// Also called for writes made elsewhere. EPIPE and EBADF are ignored: the reader closed the output, or it was never open.
    public static func noteOutputFailure(_ code: CInt) {
        if code != EPIPE, code != EBADF, code != 0 { lastFailure.store(code, ordering: .relaxed) }
    }

    /// Some file systems report a full disk only on close.
    static func closeOutput() { if close(STDOUT_FILENO) != 0 { self.noteOutputFailure(errno) } }

    /// How much was written so far, to output and error together.
    public static var bytesWritten: UInt64 { written.load(ordering: .relaxed) }

    public static func write(_ text: String, to descriptor: CInt) {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { systemWrite(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                if descriptor == STDOUT_FILENO { self.noteOutputFailure(count < 0 ? errno : EIO) }
                return
            }
            rest.removeFirst(count)
            written.wrappingAdd(UInt64(count), ordering: .relaxed)
        }
    }
}

private let lastFailure = Atomic<CInt>(0)
private let written = Atomic<UInt64>(0)
