import NIOCore

extension Channel {
    /// The socket's descriptor, for calls that NIO doesn't have; nil: closed, or none.
    ///
    /// Not by NIO's `withUnsafeTransportIfAvailable`: it casts to a protocol with its type argument, which the runtime looks up
    /// anew each time, and connections that come and go would notice that.
    var descriptor: CInt? {
        guard let core = self._channelCore as? any NIOTransportAccessibleChannelCore else { return nil }
        return Self.descriptor(of: core)
    }

    private static func descriptor(of core: some NIOTransportAccessibleChannelCore) -> CInt? {
        (try? core.withUnsafeTransport { $0 as? CInt }) ?? nil
    }
}
