import Libc
public import NIOCore
import NIOPosix

extension Channel {
    /// Closes by a TCP reset (SO_LINGER with time 0), so that the other side sees that this was no proper end. Unsent bytes
    /// are lost: see `ResetBehindBytes`.
    public func closeWithReset() { self.close(lingering: linger(l_onoff: 1, l_linger: 0)) }

    /// Closes properly: the kernel still sends what it holds.
    public func closeProperly() { self.close(lingering: linger(l_onoff: 0, l_linger: 0)) }

    private func close(lingering value: linger) {
        self.setLinger(value)
        self.close(promise: nil)
    }

    /// On the channel's event loop, as everything here, so that no other thread closes the descriptor meanwhile. NIO's own
    /// option isn't used, since it costs a cast to a protocol and a future for each connection.
    private func setLinger(_ value: linger) {
        guard let socket = self.descriptor else { return }
        var value = value
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &value, socklen_t(MemoryLayout<linger>.size))
    }

    /// Closes the output after everything written. After that the socket may be closed in any way, since its FIN has been
    /// sent.
    ///
    /// If the input is closed already, NIO closes the whole socket at once and drops unsent bytes, so this waits until all
    /// are sent.
    func closeOutputWhenWritten() -> EventLoopFuture<Void> {
        self.writeAndFlush(ByteBuffer()).flatMap {
            self.setLinger(linger(l_onoff: 0, l_linger: 0))
            return self.close(mode: .output)
        }
    }

    /// Written bytes that the other side's kernel has not acknowledged: those in NIO's buffer, and those in the socket's send
    /// queue, a FIN included. On the channel's event loop.
    var unacknowledgedBytes: Int {
        let written = (try? self.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0
        guard let socket = self.descriptor else { return written }
        var queued: CInt = 0
        #if os(Linux)
        // TIOCOUTQ is SIOCOUTQ by another name.
        let isKnown = ioctl(socket, UInt(TIOCOUTQ), &queued) == 0
        #else
        var size = socklen_t(MemoryLayout<CInt>.size)
        let isKnown = getsockopt(socket, SOL_SOCKET, SO_NWRITE, &queued, &size) == 0
        #endif
        return written + (isKnown ? Int(queued) : 0)
    }
}

/// What became of the direction in which a socket sends.
enum SocketOutput {
    case open
    /// Nothing more will be written: it closes after everything written.
    case closing
    /// Everything written is sent, and the FIN behind it.
    case closed
}
