import NIOCore
import NIOPosix

/// The socket options of a stream carrier, on both sides.
enum CarrierOptions {
    /// Large reads, so that few messages straddle two reads (those are copied).
    static let receiveAllocator = AdaptiveRecvByteBufferAllocator(minimum: 2_048, initial: 65_536, maximum: 262_144)
    /// Above `high` no message is sealed, below `low` sealing resumes: enough to keep the link busy, while new messages wait
    /// behind little.
    static let waterMark = ChannelOptions.Types.WriteBufferWaterMark(low: 64 * 1_024, high: 256 * 1_024)

    #if os(Linux)
    typealias SocketOption = (option: ChannelOptions.Types.SocketOption, value: ChannelOptions.Types.SocketOption.Value)

    static let socket: [SocketOption] = [
        // TCP_NOTSENT_LOWAT: the kernel buffers no more than this beyond what it can send now.
        (ChannelOptions.socket(6, 25), 128 * 1_024),
        // TCP_KEEPIDLE, TCP_KEEPINTVL (seconds) and TCP_KEEPCNT: a standby stream keeps its NAT mapping, and is found dead
        // before it is needed. †
        (.init(level: .socket, name: .so_keepalive), 1),
        (ChannelOptions.socket(6, 4), 20),
        (ChannelOptions.socket(6, 5), 5),
        (ChannelOptions.socket(6, 6), 3),
    ]
    #endif
}

extension ClientBootstrap {
    func carrierSocketOptions() -> ClientBootstrap {
        #if os(Linux)
        CarrierOptions.socket.reduce(self) { $0.channelOption($1.option, value: $1.value) }
        #else
        self
        #endif
    }
}

extension ServerBootstrap {
    func carrierSocketOptions() -> ServerBootstrap {
        #if os(Linux)
        CarrierOptions.socket.reduce(self) { $0.childChannelOption($1.option, value: $1.value) }
        #else
        self
        #endif
    }
}
