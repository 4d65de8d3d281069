public import NIOCore
import NIOPosix

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

extension Channel {
    /// Closes by a TCP reset: SO_LINGER with no time. Whoever is at the other end knows that this wasn't a proper end. What the
    /// socket has not sent is lost: see `ResetBehindBytes`.
    public func closeWithReset() { self.close(lingering: linger(l_onoff: 1, l_linger: 0)) }

    /// Closes as a program does that has said all: the kernel goes on with what it has not sent.
    public func closeProperly() { self.close(lingering: linger(l_onoff: 0, l_linger: 0)) }

    private func close(lingering value: linger) {
        self.setLinger(value)
        self.close(promise: nil)
    }

    /// On the channel's loop, as all of these: no other thread can close the descriptor meanwhile. Not by NIO's option, which
    /// costs a cast to a protocol and a future for each connection.
    private func setLinger(_ value: linger) {
        guard let socket = self.descriptor else { return }
        var value = value
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &value, socklen_t(MemoryLayout<linger>.size))
    }

    /// Closes the output behind all that was written. From then on the socket may be closed in any way: its end has been said.
    ///
    /// NIO closes the whole socket at once when the input is closed already, and drops what it has not sent: so wait until
    /// it has.
    func closeOutputWhenWritten() -> EventLoopFuture<Void> {
        self.writeAndFlush(ByteBuffer()).flatMap {
            self.setLinger(linger(l_onoff: 0, l_linger: 0))
            return self.close(mode: .output)
        }
    }

    /// Bytes that were written and that the other side's kernel hasn't acknowledged: those that NIO keeps, and the socket's
    /// send queue, a FIN included. On the channel's loop.
    var unacknowledgedBytes: Int {
        let written = (try? self.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0
        guard let socket = self.descriptor else { return written }
        var queued: CInt = 0
        #if os(Linux)
        // SIOCOUTQ, by its other name.
        let isKnown = ioctl(socket, UInt(TIOCOUTQ), &queued) == 0
        #else
        var size = socklen_t(MemoryLayout<CInt>.size)
        let isKnown = getsockopt(socket, SOL_SOCKET, SO_NWRITE, &queued, &size) == 0
        #endif
        return written + (isKnown ? Int(queued) : 0)
    }
}
