public import HostSupport
import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Text for people, unbuffered, to standard output or error. If nobody reads it any more, nobody is to be told.
public enum Console {
    /// Why something that was written to standard output isn't there: a full disk, say. Nil: all of it is, or nobody reads it.
    public static var outputFailure: HostError? {
        let code = lastFailure.load(ordering: .relaxed)
        return code == 0 ? nil : HostError("the output can't be written", code: code)
    }

    /// Also of what is written elsewhere. A closed pipe, and a descriptor that was never open, are somebody's wish.
    public static func noteOutputFailure(_ code: CInt) {
        if code != EPIPE, code != EBADF, code != 0 { lastFailure.store(code, ordering: .relaxed) }
    }

    /// Some file systems say only now that there is no room.
    static func closeOutput() { if close(STDOUT_FILENO) != 0 { self.noteOutputFailure(errno) } }

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
        }
    }
}

private let lastFailure = Atomic<CInt>(0)

/// `write` is a method's name above.
private func systemWrite(_ descriptor: CInt, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    write(descriptor, bytes, count)
}
