import Libc
import NIOCore
import NIOPosix

/// Waits for the first line that a child writes, then closes the pipe.
enum FirstLine {
    /// A longer text can't be a ready line.
    private static let bytesAtMost = 65_536

    /// - Parameter descriptor: the pipe's read end, which is closed in any case.
    static func read(from descriptor: CInt, on eventLoop: any EventLoop, _ onLine: @escaping (String) -> Void) {
        let handler = NIOLoopBound(Handler(onLine), eventLoop: eventLoop)
        NIOPipeBootstrap(group: eventLoop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(handler.value)
                }
            }
            .takingOwnershipOfDescriptor(input: descriptor)
            .whenFailure { _ in close(descriptor) }
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let onLine: (String) -> Void
        private var buffer = ByteBuffer()

        init(_ onLine: @escaping (String) -> Void) { self.onLine = onLine }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var bytes = self.unwrapInboundIn(data)
            self.buffer.writeBuffer(&bytes)
            if let end = self.buffer.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) {
                let line = self.buffer.readString(length: end - self.buffer.readerIndex) ?? ""
                context.close(promise: nil)
                self.onLine(line)
            } else if self.buffer.readableBytes > FirstLine.bytesAtMost {
                context.close(promise: nil)
            }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
