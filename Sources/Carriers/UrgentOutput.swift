import NIOCore
import NIOPosix

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Writes urgent bytes to a socket, each in its place: behind all that was written before, and before all that follows.
///
/// NIO can't, so the byte goes out beside it, by send(2) with MSG_OOB, once NIO has nothing of before any more. What follows
/// waits here until then.
final class UrgentOutput {
    private enum Item {
        case bytes(ByteBuffer, EventLoopPromise<Void>?)
        case urgent(UInt8)
    }

    private let channel: any Channel
    private var waiting = CircularBuffer<Item>()
    /// An urgent byte is on its way out: nothing else may be written.
    private(set) var isBusy = false
    /// It is out, and all that waited behind it is with NIO.
    private let onIdle: () -> Void

    /// † A full socket: NIO's selector can't be asked to tell when there is room.
    private static let retryInterval = TimeAmount.milliseconds(10)

    init(_ channel: any Channel, onIdle: @escaping () -> Void) {
        self.channel = channel
        self.onIdle = onIdle
    }

    func write(_ bytes: ByteBuffer, promise: EventLoopPromise<Void>?) {
        if self.isBusy {
            self.waiting.append(.bytes(bytes, promise))
        } else {
            self.channel.write(bytes, promise: promise)
        }
    }

    func writeUrgent(_ byte: UInt8) {
        if self.isBusy { return self.waiting.append(.urgent(byte)) }
        self.isBusy = true
        self.channel.writeAndFlush(ByteBuffer()).assumeIsolated().whenComplete { result in
            switch result {
            case .success: self.send(byte)
            case .failure(let error): self.fail(error)
            }
        }
    }

    private func send(_ byte: UInt8) {
        switch self.channel.descriptor.map({ systemSendUrgent(byte, to: $0) }) ?? EBADF {
        case 0: self.goOn()
        case EAGAIN, EINTR:
            self.channel.eventLoop.assumeIsolated().scheduleTask(in: Self.retryInterval) { self.send(byte) }
        case let code:
            let error = IOError(errnoCode: code, reason: "send")
            self.fail(error)
            self.channel.pipeline.fireErrorCaught(error)
        }
    }

    private func goOn() {
        self.isBusy = false
        while let item = self.waiting.popFirst() {
            switch item {
            case .bytes(let bytes, let promise): self.channel.write(bytes, promise: promise)
            // It goes on here once that is out, too.
            case .urgent(let byte): return self.writeUrgent(byte)
            }
        }
        self.channel.flush()
        self.onIdle()
    }

    /// The socket is closed or broken: its handlers are told that by NIO.
    private func fail(_ error: any Error) {
        // What is still written fails in NIO: nothing waits here for ever.
        self.isBusy = false
        while let item = self.waiting.popFirst() {
            if case .bytes(_, let promise) = item { promise?.fail(error) }
        }
    }
}

/// 0, or errno. A method of that name hides the system's.
private func systemSendUrgent(_ byte: UInt8, to socket: CInt) -> CInt {
    var byte = byte
    return send(socket, &byte, 1, CInt(MSG_OOB) | CInt(MSG_NOSIGNAL) | CInt(MSG_DONTWAIT)) == 1 ? 0 : errno
}
