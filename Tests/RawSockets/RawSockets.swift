import Foundation
import Libc

/// What the other program does with its end of a connection: plain calls that give up after a minute.
///
/// Calls that may block run on a thread of their own. Swift's threads are as few as the machine's cores, and all tests share
/// them: one that blocks them stops all others.
public final class RawSocket: Sendable {
    fileprivate let descriptor: CInt

    fileprivate init(_ descriptor: CInt) {
        self.descriptor = descriptor
        var patience = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(self.descriptor) }

    public func say(_ text: String, _ flags: CInt = 0) async -> Bool {
        await onOwnThread {
            var text = text
            return text.withUTF8 { systemSend(self.descriptor, $0, flags) == $0.count }
        }
    }

    /// The next `count` bytes, or what came before the end.
    public func hear(_ count: Int) async -> String {
        await onOwnThread {
            var heard: [UInt8] = []
            while heard.count < count, case .bytes(let bytes) = self.next(atMost: count - heard.count) {
                heard += bytes
            }
            return String(decoding: heard, as: UTF8.self)
        }
    }

    /// All that comes, and `end` or `reset`.
    public func hearAll() async -> [String] {
        await onOwnThread {
            var heard: [UInt8] = []
            while true {
                switch self.next(atMost: 1 << 16) {
                case .bytes(let bytes): heard += bytes
                case .end: return [String(decoding: heard, as: UTF8.self), "end"]
                case .failed(let code):
                    return [String(decoding: heard, as: UTF8.self), code == ECONNRESET ? "reset" : "errno \(code)"]
                }
            }
        }
    }

    /// No byte follows.
    public func finish() { shutdown(self.descriptor, CInt(SHUT_WR)) }

    /// Ends as a program does that was killed.
    public func reset() {
        var noTime = linger(l_onoff: 1, l_linger: 0)
        setsockopt(self.descriptor, SOL_SOCKET, SO_LINGER, &noTime, socklen_t(MemoryLayout<linger>.size))
        // The number stays taken until `deinit`.
        let other = socket(AF_UNIX, SocketType.stream, 0)
        dup2(other, self.descriptor)
        close(other)
    }

    private enum Next {
        case bytes([UInt8])
        case end
        case failed(CInt)
    }

    private func next(atMost count: Int) -> Next {
        var bytes = [UInt8](repeating: 0, count: count)
        let got = recv(self.descriptor, &bytes, count, 0)
        return got > 0 ? .bytes(Array(bytes.prefix(got))) : got == 0 ? .end : .failed(errno)
    }
}

/// Listens on a port of 127.0.0.1 that the kernel chose.
public final class RawListener: Sendable {
    private let socket: RawSocket
    public let port: Int

    /// - Parameters:
    ///   - backlog: one more connection than this waits to be accepted; the kernel tries others again after a second.
    ///   - receiveBuffer: what the kernel keeps unread for an accepted socket.
    public init?(backlog: CInt = 4, receiveBuffer: CInt? = nil) {
        let descriptor = systemSocket()
        if var size = receiveBuffer {
            setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<CInt>.size))
        }
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound =
            withAddress(0) { bind(descriptor, $0, $1) } == 0 && listen(descriptor, backlog) == 0
            && withUnsafeMutablePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
            } == 0
        self.socket = RawSocket(descriptor)
        self.port = Int(UInt16(bigEndian: address.sin_port))
        if !isBound { return nil }
    }

    public func accept() async -> RawSocket {
        await onOwnThread { RawSocket(systemAccept(self.socket.descriptor)) }
    }
}

/// Connects to a port of 127.0.0.1.
public func rawConnect(to port: Int) async -> RawSocket {
    await onOwnThread {
        let descriptor = systemSocket()
        let socket = RawSocket(descriptor)
        _ = withAddress(port) { systemConnect(descriptor, $0, $1) }
        return socket
    }
}

private func onOwnThread<Result: Sendable>(_ body: @escaping @Sendable () -> Result) async -> Result {
    await withCheckedContinuation { continuation in
        Thread.detachNewThread { continuation.resume(returning: body()) }
    }
}

private func withAddress(_ port: Int, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt) -> CInt {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    address.sin_port = UInt16(port).bigEndian
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
}

// Methods above have the names of these.
private func systemSocket() -> CInt { socket(AF_INET, SocketType.stream, 0) }
private func systemConnect(_ socket: CInt, _ address: UnsafePointer<sockaddr>, _ size: socklen_t) -> CInt {
    connect(socket, address, size)
}
private func systemAccept(_ listener: CInt) -> CInt { accept(listener, nil, nil) }
private func systemSend(_ socket: CInt, _ bytes: UnsafeBufferPointer<UInt8>, _ flags: CInt) -> Int {
    send(socket, bytes.baseAddress, bytes.count, flags | CInt(MSG_NOSIGNAL))
}
