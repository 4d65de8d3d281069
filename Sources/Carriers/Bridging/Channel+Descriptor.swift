import NIOCore

extension Channel {
    /// The socket's descriptor, for calls that NIO doesn't have; nil: it is closed, or there is none.
    ///
    /// NIO's `withUnsafeTransportIfAvailable` isn't used: it casts to a protocol with its type argument, which the runtime
    /// looks up each time, and that would slow down short connections.
    var descriptor: CInt? {
        guard let core = self._channelCore as? any NIOTransportAccessibleChannelCore else { return nil }
        return Self.descriptor(of: core)
    }

    private static func descriptor(of core: some NIOTransportAccessibleChannelCore) -> CInt? {
        (try? core.withUnsafeTransport { $0 as? CInt }) ?? nil
    }
}
