import Libc

/// Complete read(2) and write(2), directly from and to memory that the caller provides.
enum DescriptorIO {
    /// Reads until the end of the file or until `bytes` is full, and returns the number of bytes.
    static func read(from descriptor: CInt, into bytes: inout MutableRawSpan) throws(SystemError) -> Int {
        try bytes.withUnsafeMutableBytes { buffer throws(SystemError) in
            var count = 0
            while count < buffer.count {
                let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[count...])
                let outcome = try retrying(descriptor, POLLIN) { systemRead(descriptor, rest.baseAddress, rest.count) }
                if outcome == 0 { break }
                count += outcome
            }
            return count
        }
    }

    static func write(_ bytes: RawSpan, to descriptor: CInt) throws(SystemError) {
        try bytes.withUnsafeBytes { buffer throws(SystemError) in
            var rest = buffer[...]
            while !rest.isEmpty {
                let chunk = UnsafeRawBufferPointer(rebasing: rest)
                let outcome = try retrying(descriptor, POLLOUT) {
                    systemWrite(descriptor, chunk.baseAddress, chunk.count)
                }
                rest = rest.dropFirst(outcome)
            }
        }
    }

    /// Another process that shares standard input or output may have made it non-blocking.
    private static func retrying(_ descriptor: CInt, _ event: CInt, _ call: () -> Int) throws(SystemError) -> Int {
        while true {
            let outcome = call()
            if outcome >= 0 { return outcome }
            let error = SystemError.last
            switch error.code {
            case EINTR:
                continue
            case EAGAIN:
                var wanted = pollfd(fd: descriptor, events: Int16(event), revents: 0)
                _ = poll(&wanted, 1, -1)
            default:
                throw error
            }
        }
    }
}
