import HostSupport
import Libc
import Synchronization

/// Copies standard input to a socket, and the socket to standard output.
///
/// Each direction has a thread of its own that blocks in the kernel. So pipes, sockets, terminals and files all work, the
/// directions don't hold each other up, and a slow reader slows the writer.
struct StandardStreams {
    let socket: CInt

    enum Ending {
        case ended
        /// The socket ended first, without having sent anything.
        case silent
        case failed(String)
    }

    private static let inputHasEnded = Atomic(false)
    private static let pieceSize = 128 * 1_024
    /// † In seconds, after the end of the input: limits the wait for the output of a sidecar that hangs.
    private static let afterInput: UInt32 = 10

    func carry() -> Ending {
        let socket = self.socket
        Self.detach { Self.carryInput(to: socket) }
        var received = false
        switch Self.copy(from: socket, to: STDOUT_FILENO, { received = true }) {
        case .inputEnded, .inputFailed:
            return received || Self.inputHasEnded.load(ordering: .relaxed) ? .ended : .silent
        case .outputFailed(EPIPE): return .ended
        case .outputFailed(let code): return .failed("\(HostError("standard output can't be written", code: code)).")
        }
    }

    private static func carryInput(to socket: CInt) {
        switch Self.copy(from: STDIN_FILENO, to: socket, {}) {
        case .inputEnded, .inputFailed:
            Self.inputHasEnded.store(true, ordering: .relaxed)
            shutdown(socket, CInt(SHUT_WR))
            sleep(Self.afterInput)
            exit(0)
        // The other direction ends by itself, after the remaining bytes.
        case .outputFailed: shutdown(socket, CInt(SHUT_WR))
        }
    }

    private enum CopyEnd {
        case inputEnded
        case inputFailed
        case outputFailed(CInt)
    }

    private static func copy(from input: CInt, to output: CInt, _ onBytes: () -> Void) -> CopyEnd {
        withUnsafeTemporaryAllocation(byteCount: Self.pieceSize, alignment: 16) { piece in
            while true {
                let count = read(input, piece.baseAddress, piece.count)
                if count < 0, Self.waits(for: input, POLLIN) { continue }
                guard count >= 0 else { return .inputFailed }
                guard count > 0 else { return .inputEnded }
                onBytes()
                var rest = UnsafeRawBufferPointer(rebasing: piece[..<count])
                while !rest.isEmpty {
                    let written = write(output, rest.baseAddress, rest.count)
                    if written < 0, Self.waits(for: output, POLLOUT) { continue }
                    guard written >= 0 else { return .outputFailed(errno) }
                    rest = UnsafeRawBufferPointer(rebasing: rest[written...])
                }
            }
        }
    }

    /// Another process that shares the stream may have made it non-blocking.
    private static func waits(for descriptor: CInt, _ event: CInt) -> Bool {
        if errno == EINTR { return true }
        guard errno == EAGAIN else { return false }
        var wanted = pollfd(fd: descriptor, events: Int16(event), revents: 0)
        return poll(&wanted, 1, -1) > 0 || errno == EINTR
    }

    private static func detach(_ body: @escaping @Sendable () -> Void) {
        final class Body: Sendable {
            let run: @Sendable () -> Void
            init(_ run: @escaping @Sendable () -> Void) { self.run = run }
        }
        var thread = pthread_t()
        pthread_create(
            &thread,
            nil,
            { body in
                if let body { Unmanaged<Body>.fromOpaque(body).takeRetainedValue().run() }
                return nil
            },
            Unmanaged.passRetained(Body(body)).toOpaque()
        )
        pthread_detach(thread)
    }
}
