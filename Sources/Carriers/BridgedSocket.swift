import HostSupport
public import NIOCore
import NIOPosix

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// What holds for each socket that is tied to a stream or to another socket, from its first moment.
///
/// - SO_LINGER with no time: whatever closes it, a `kill -9` too, ends it by a reset, so that a cut never passes for an end.
///   `closeOutputWhenWritten` and `closeProperly` alone take that back.
/// - SO_OOBINLINE: see `UrgentInput`.
/// - Keepalive: the other program may have gone without a word, and a connection that is silent must stay known to the
///   kernel that translates it.
public enum BridgedSocket {
    /// A silent connection is asked after this time, and then so often in such steps before it ends: never after less than two
    /// and a half minutes of silence. †
    struct KeepAlive: Equatable {
        var idle: CInt = 45
        var interval: CInt = 15
        var count: CInt = 7

        /// - Parameter forgottenAfter: seconds of silence after which the kernel forgets a connection that it translates.
        init(forgottenAfter: Int?) {
            guard let forgottenAfter else { return }
            let ended = self.idle + self.count * self.interval
            self.idle = CInt(max(5, min(Int(self.idle), forgottenAfter / 4 * 3)))
            self.count = max(self.count, (ended - self.idle + self.interval - 1) / self.interval)
        }
    }

    /// For a socket that was dialled, or that listens: what it accepts inherits all of this (Linux, tcp(7) and socket(7)).
    public static func prepare(_ channel: any Channel) {
        guard let socket = channel.descriptor else { return }
        var none = linger(l_onoff: 1, l_linger: 0)
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &none, socklen_t(MemoryLayout<linger>.size))
        Self.set(socket, SOL_SOCKET, SO_OOBINLINE, 1)
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

    /// Of the network namespace that the process is in when it first asks.
    private static let keepAlive: KeepAlive = {
        let folder = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_"
        let times = ["established", "close_wait", "fin_wait"].compactMap { name -> Int? in
            guard let bytes = try? SmallFile.read(folder + name, atMost: 32) else { return nil }
            return Int(String(decoding: bytes, as: UTF8.self).prefix { $0.isNumber })
        }
        return KeepAlive(forgottenAfter: times.min())
    }()
}
