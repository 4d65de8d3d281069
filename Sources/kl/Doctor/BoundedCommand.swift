import HostSupport

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// A program that is waited for only so long; what it has started by then ends with it.
struct BoundedCommand {
    struct Result: Equatable {
        /// Nil: it was ended, because it took too long or by a signal.
        var code: Int32?
        var output: String
        var isLate = false
    }

    private static let outputAtMost = 65_536

    /// - Parameter milliseconds: then it is ended.
    /// - Returns: standard output and error as they came; nil: it can't be started.
    static func run(_ program: String, _ arguments: [String], within milliseconds: Int64) -> Result? {
        var ends: [CInt] = [-1, -1]
        guard pipe(&ends) == 0 else { return nil }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var spawn = Spawn(program, arguments)
        spawn.descriptors = [nil, ends[1], ends[1]]
        let started = try? spawn.start()
        close(ends[1])
        defer { close(ends[0]) }
        guard let pid = started else { return nil }
        var result = Result(code: nil, output: "")
        var bytes: [UInt8] = []
        let until = Self.now() + milliseconds
        var status: Int32 = 0
        var hasEnded = false
        while bytes.count < Self.outputAtMost {
            if !hasEnded { hasEnded = waitpid(pid, &status, WNOHANG) != 0 }
            var wait = pollfd(fd: ends[0], events: Int16(POLLIN), revents: 0)
            let ready = poll(&wait, 1, hasEnded ? 0 : 10)
            if ready < 0, errno == EINTR { continue }
            guard ready > 0 else {
                // What it has left behind may hold the pipe for ever.
                if hasEnded || Self.now() >= until { break }
                continue
            }
            var piece = [UInt8](repeating: 0, count: 4_096)
            let count = read(ends[0], &piece, piece.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            bytes += piece[..<count]
        }
        result.output = String(decoding: bytes, as: UTF8.self)
        while !hasEnded, Self.now() < until {
            hasEnded = waitpid(pid, &status, WNOHANG) != 0
            if !hasEnded { usleep(2_000) }
        }
        result.isLate = !hasEnded
        // It leads a group of its own.
        kill(-pid, SIGKILL)
        if !hasEnded { waitpid(pid, &status, 0) }
        if !result.isLate, status & 0x7F == 0 { result.code = status >> 8 & 0xFF }
        return result
    }

    private static func now() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
    }
}
