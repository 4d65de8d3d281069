import NIOCore
import NIOPosix

/// How a stream carrier's socket is set up, on both sides.
enum CarrierOptions {
    /// Much is read at once, so that few messages straddle two reads (those are copied).
    static let receiveAllocator = AdaptiveRecvByteBufferAllocator(minimum: 2_048, initial: 65_536, maximum: 262_144)
    /// Above `high` no more is sealed, below `low` it goes on: enough to keep the line busy, little to wait behind.
    static let waterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 64 * 1_024, high: 256 * 1_024)

    #if os(Linux)
    /// TCP_NOTSENT_LOWAT: the kernel, too, takes no more than this ahead of what it can send.
    static let notSentLowWater = ChannelOptions.socket(6, 25)
    static let notSentLowWaterBytes: ChannelOptions.Types.SocketOption.Value = 128 * 1_024
    /// TCP_KEEPIDLE and TCP_KEEPINTVL: a stream that stands by beside datagrams keeps its place in a NAT, and is known to be
    /// dead before it is needed. Seconds. †
    static let keepAliveIdle = ChannelOptions.socket(6, 4)
    static let keepAliveInterval = ChannelOptions.socket(6, 5)
    static let keepAliveCount = ChannelOptions.socket(6, 6)
    #endif
}

extension ClientBootstrap {
    func carrierSocketOptions() -> ClientBootstrap {
        #if os(Linux)
        self.channelOption(CarrierOptions.notSentLowWater, value: CarrierOptions.notSentLowWaterBytes)
            .channelOption(.socketOption(.so_keepalive), value: 1)
            .channelOption(CarrierOptions.keepAliveIdle, value: 20)
            .channelOption(CarrierOptions.keepAliveInterval, value: 5)
            .channelOption(CarrierOptions.keepAliveCount, value: 3)
        #else
        self
        #endif
    }
}

extension ServerBootstrap {
    func carrierSocketOptions() -> ServerBootstrap {
        #if os(Linux)
        self.childChannelOption(CarrierOptions.notSentLowWater, value: CarrierOptions.notSentLowWaterBytes)
        #else
        self
        #endif
    }
}
