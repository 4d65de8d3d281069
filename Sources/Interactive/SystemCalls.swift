import Libc

/// The few calls that dialogues and progress lines share.
enum SystemCalls {
    /// Writes everything, or as much as possible.
    /// - Returns: 0, or why the rest can't be written (errno).
    @discardableResult
    static func writeAll(_ bytes: [UInt8], to descriptor: CInt) -> CInt {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
            if count > 0 {
                rest.removeFirst(count)
            } else if count < 0, errno == EAGAIN {
                // Another program that shares this terminal has made it non-blocking: wait until it can be written.
                var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = poll(&waiting, 1, -1)
            } else if count == 0 || errno != EINTR {
                return count == 0 ? EIO : errno
            }
        }
        return 0
    }

    @discardableResult
    static func writeAll(_ text: String, to descriptor: CInt) -> CInt {
        self.writeAll(Array(text.utf8), to: descriptor)
    }

    /// Columns and rows; 80 × 24 if the terminal doesn't know.
    static func sizeOfTerminal(_ descriptor: CInt) -> (width: Int, height: Int) {
        var size = winsize()
        let isKnown = ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0
        return (
            isKnown && size.ws_col > 0 ? Int(size.ws_col) : 80,
            isKnown && size.ws_row > 0 ? Int(size.ws_row) : 24
        )
    }

    static func environment(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }
    }

    static func environment(_ names: [String]) -> [String: String] {
        names.reduce(into: [:]) { $0[$1] = self.environment($1) }
    }

    /// From a monotonic clock.
    static func seconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}
