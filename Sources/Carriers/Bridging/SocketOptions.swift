import HostSupport
import Libc
public import NIOCore
import NIOPosix

/// Options of every socket that is tied to a stream or to another socket; all but keepalive are set before it is used.
///
/// - SO_LINGER with time 0: whatever closes the socket, even a `kill -9`, sends a reset, so that an aborted connection never
///   looks like a proper end. Only `closeOutputWhenWritten` and `closeProperly` undo this.
/// - SO_OOBINLINE: see `UrgentInput`.
/// - Keepalive, set by `KeepAliveRounds`: it detects a peer that has vanished, and keeps a silent connection in the
///   connection tracking of a kernel that translates it.
public enum SocketOptions {
    /// The first probe goes out after `idle` seconds of silence, then one every `interval` seconds. After `count` unanswered
    /// probes the connection ends: never in less than two and a half minutes. †
    struct KeepAlive: Equatable {
        var idle: CInt = 45
        var interval: CInt = 15
        var count: CInt = 7

        /// - Parameter forgottenAfter: seconds of silence after which the kernel's connection tracking forgets a translated
        ///   connection.
        init(forgottenAfter: Int?) {
            guard let forgottenAfter else { return }
            let ended = self.idle + self.count * self.interval
            self.idle = CInt(max(5, min(Int(self.idle), forgottenAfter / 4 * 3)))
            self.count = max(self.count, (ended - self.idle + self.interval - 1) / self.interval)
        }
    }

    /// For a socket that was dialled, or that listens: accepted sockets inherit all of this (Linux, tcp(7) and socket(7)).
    public static func prepare(_ channel: any Channel) {
        guard let socket = channel.descriptor else { return }
        var none = linger(l_onoff: 1, l_linger: 0)
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &none, socklen_t(MemoryLayout<linger>.size))
        Self.set(socket, SOL_SOCKET, SO_OOBINLINE, 1)
    }

    /// The channel's own options, which `BridgedSocket` and `ChannelRelay` need. Set one after the other on the channel's loop:
    /// a bootstrap makes a future for each option of each connection, which was a seventh of all that a short one costs.
    @Sendable public static func setUp(_ channel: any Channel) throws {
        guard let options = channel.syncOptions else { return }
        try options.setOption(.autoRead, value: false)
        try options.setOption(.allowRemoteHalfClosure, value: true)
        try options.setOption(.maxMessagesPerRead, value: 1)
        try options.setOption(.writeBufferWaterMark, value: .init(low: 64 * 1_024, high: 256 * 1_024))
    }

    /// The same, for sockets of which there may be many where memory is scarce.
    @Sendable public static func setUpThriftily(_ channel: any Channel) throws {
        try Self.setUp(channel)
        try channel.syncOptions?.setOption(.writeBufferWaterMark, value: .init(low: 8 * 1_024, high: 32 * 1_024))
    }

    static func keepAlive(_ channel: any Channel) {
        guard let socket = channel.descriptor else { return }
        Self.set(socket, SOL_SOCKET, SO_KEEPALIVE, 1)
        #if os(Linux)
        let keepAlive = Self.keepAlive
        Self.set(socket, CInt(IPPROTO_TCP), TCP_KEEPIDLE, keepAlive.idle)
        Self.set(socket, CInt(IPPROTO_TCP), TCP_KEEPINTVL, keepAlive.interval)
        Self.set(socket, CInt(IPPROTO_TCP), TCP_KEEPCNT, keepAlive.count)
        #endif
    }

    private static func set(_ socket: CInt, _ level: CInt, _ name: CInt, _ value: CInt) {
        var value = value
        setsockopt(socket, level, name, &value, socklen_t(MemoryLayout<CInt>.size))
    }

    /// Read from the network namespace in which the process first uses it.
    static let keepAlive: KeepAlive = {
        let folder = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_"
        let times = ["established", "close_wait", "fin_wait"].compactMap { name -> Int? in
            guard let bytes = try? SmallFile.read(folder + name, atMost: 32) else { return nil }
            return Int(String(decoding: bytes, as: UTF8.self).prefix { $0.isNumber })
        }
        return KeepAlive(forgottenAfter: times.min())
    }()
}
