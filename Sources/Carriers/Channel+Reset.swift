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
}
