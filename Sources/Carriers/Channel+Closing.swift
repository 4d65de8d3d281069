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
    /// Closes by a TCP reset: SO_LINGER with no time. Whoever is at the other end knows that this wasn't a proper end.
    public func closeWithReset() {
        if let provider = self as? any SocketOptionProvider {
            provider.setSoLinger(linger(l_onoff: 1, l_linger: 0)).whenComplete { _ in self.close(promise: nil) }
        } else {
            self.close(promise: nil)
        }
    }

    /// Closes the output behind all that was written.
    ///
    /// NIO closes the whole socket at once when the input is closed already, and drops what it has not sent: so wait until
    /// it has.
    func closeOutputWhenWritten() -> EventLoopFuture<Void> {
        self.writeAndFlush(ByteBuffer()).flatMap { self.close(mode: .output) }
    }
}
