import Libc
import NIOCore
import NIOPosix

/// Writes urgent bytes to a socket, each after everything written before it, and before everything that follows.
///
/// NIO can't do that, so the byte is sent outside of it, by send(2) with MSG_OOB, once NIO has sent everything written
/// before. What follows waits here until then.
final class UrgentOutput {
    private enum Item {
        case bytes(ByteBuffer, EventLoopPromise<Void>?)
        case urgent(UInt8)
    }

    private let channel: any Channel
    private var waiting = CircularBuffer<Item>()
    /// An urgent byte is being sent: nothing else may be written.
    private(set) var isBusy = false
    /// Called when the byte is sent, and what waited behind it was passed to NIO.
    private let onIdle: () -> Void

    /// † For a full socket: NIO's selector can't report when it has room.
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
            // `goOn` runs again once that byte is sent.
            case .urgent(let byte): return self.writeUrgent(byte)
            }
        }
        self.channel.flush()
        self.onIdle()
    }

    /// The socket is closed or broken, which NIO reports to its handlers.
    private func fail(_ error: any Error) {
        // Later writes go to NIO and fail there: nothing waits here for ever.
        self.isBusy = false
        while let item = self.waiting.popFirst() {
            if case .bytes(_, let promise) = item { promise?.fail(error) }
        }
    }
}

/// 0 or errno. A function of its own, since the method `send` hides the system's.
private func systemSendUrgent(_ byte: UInt8, to socket: CInt) -> CInt {
    var byte = byte
    return send(socket, &byte, 1, CInt(MSG_OOB) | CInt(MSG_NOSIGNAL) | CInt(MSG_DONTWAIT)) == 1 ? 0 : errno
}
