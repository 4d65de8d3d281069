import CSpawn
import Libc
import NIOPosix
import Synchronization

/// Tells at once when a process has ended that isn't this one's child. Whoever may see the process may do so.
public final class ProcessEndWatch: Sendable {
    private let number: UInt64

    /// Nil: there is no such process, or the kernel can't tell of it.
    /// - Parameters:
    ///   - isMeant: asked once the process can't be taken for a later one of its number.
    ///   - onEnd: called on a thread of its own, at most once; hardly ever after this object has gone.
    public init?(of process: Int32, isMeant: () -> Bool, onEnd: @escaping @Sendable () -> Void) {
        guard process > 0 else { return nil }
        let descriptor = kl_open_process(process)
        guard descriptor >= 0 else { return nil }
        guard isMeant(), let number = ProcessWaiter.shared?.add(descriptor, onEnd) else {
            close(descriptor)
            return nil
        }
        self.number = number
    }

    deinit { ProcessWaiter.shared?.remove(self.number) }
}

/// One thread that waits for all of them. It alone closes descriptors, since another's number might else be waited for.
private final class ProcessWaiter: Sendable {
    private struct Watched {
        var descriptor: CInt
        /// Nil: nobody wants to know any more.
        var onEnd: (@Sendable () -> Void)?
    }

    private struct State {
        var watched: [UInt64: Watched] = [:]
        var next: UInt64 = 0
    }

    static let shared = ProcessWaiter()

    private let state = Mutex(State())
    /// What is written here lets the thread look at `state` again.
    private let wakes: CInt
    private let isWoken: CInt

    private init?() {
        guard let pipe = try? Pipe() else { return nil }
        pipe.makeNonblocking()
        (self.isWoken, self.wakes) = (pipe.reader, pipe.writer)
        let pool = NIOThreadPool(numberOfThreads: 1)
        pool.start()
        pool.submit { _ in while true { self.wait() } }
    }

    func add(_ descriptor: CInt, _ onEnd: @escaping @Sendable () -> Void) -> UInt64 {
        defer { self.wake() }
        return self.state.withLock { state in
            state.next += 1
            state.watched[state.next] = Watched(descriptor: descriptor, onEnd: onEnd)
            return state.next
        }
    }

    func remove(_ number: UInt64) {
        self.state.withLock { $0.watched[number]?.onEnd = nil }
        self.wake()
    }

    private func wake() {
        // A full pipe wakes it too.
        var byte: UInt8 = 0
        _ = write(self.wakes, &byte, 1)
    }

    private func wait() {
        let watched = self.state.withLock { state in
            for (number, one) in state.watched where one.onEnd == nil {
                close(one.descriptor)
                state.watched[number] = nil
            }
            return state.watched.map { ($0.key, $0.value.descriptor) }
        }
        var polled = ([self.isWoken] + watched.map(\.1)).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        guard poll(&polled, nfds_t(polled.count), -1) > 0 else { return }
        var bytes = [UInt8](repeating: 0, count: 64)
        while read(self.isWoken, &bytes, bytes.count) == bytes.count {}
        for (one, answer) in zip(watched, polled.dropFirst()) where answer.revents != 0 {
            let ended = self.state.withLock { state in
                let onEnd = state.watched[one.0]?.onEnd
                state.watched[one.0]?.onEnd = nil
                return onEnd
            }
            ended?()
        }
    }
}
