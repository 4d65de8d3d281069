import Environments
import FoundationEssentials
import HostSupport
import NIOCore
import NIOPosix

/// Follows `docker events`, the engine's report of changes to containers. If the client ends it is started again, with
/// growing delays.
final class DockerEvents: Sendable {
    enum News: Sendable {
        /// The client is probably listening now; earlier changes may have been missed.
        case began
        /// A container was started, ended, made or removed, or its networks have changed. Nil: the event can't be parsed.
        case changed(DockerEvent?)
        case ended
    }

    private static let eventLoop: any EventLoop = MultiThreadedEventLoopGroup.singleton.next()

    private let follower: NIOLoopBoundBox<Follower?>

    init(_ engine: DockerEngine, tell: @escaping @Sendable (News) -> Void) {
        let words = engine.words + ["events", "--format", "{{json .}}"]
        self.follower = .makeEmptyBox(valueType: Follower.self, eventLoop: Self.eventLoop)
        Self.eventLoop.execute { [follower] in
            let made = Follower(words, on: Self.eventLoop, tell: tell)
            follower.value = made
            made.start()
        }
    }

    func end() {
        Self.eventLoop.execute { [follower] in
            follower.value?.stop()
            follower.value = nil
        }
    }

    /// Used on the event loop only.
    fileprivate final class Follower {
        private let words: [String]
        private let eventLoop: any EventLoop
        private let tell: @Sendable (News) -> Void
        private var backoff = Backoff([100, 500, 1_000, 2_000, 5_000])
        private var channel: (any Channel)?
        private var isOver = false

        init(_ words: [String], on eventLoop: any EventLoop, tell: @escaping @Sendable (News) -> Void) {
            self.words = words
            self.eventLoop = eventLoop
            self.tell = tell
        }

        func start() {
            guard !self.isOver else { return }
            let began = NIODeadline.now()
            let process: FilterProcess
            let socket: CInt
            do throws(HostError) {
                (process, socket) = try FilterProcess.start(self.words, on: self.eventLoop)
            } catch {
                return self.ended(began)
            }
            let bound = NIOLoopBound((self, process), eventLoop: self.eventLoop)
            ClientBootstrap(group: self.eventLoop)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let (follower, process) = bound.value
                        let lines = EventLines(
                            onLine: { line in
                                let event = DockerEvent(line: line)
                                if event?.mayMatter ?? true { follower.tell(.changed(event)) }
                            },
                            onEnd: { process.end { _ in follower.ended(began) } }
                        )
                        try channel.pipeline.syncOperations.addHandler(lines)
                    }
                }
                .withConnectedSocket(socket)
                .assumeIsolated()
                .whenComplete { result in
                    let (follower, process) = bound.value
                    switch result {
                    case .success(let channel):
                        guard !follower.isOver else { return channel.close(promise: nil) }
                        follower.channel = channel
                        follower.tell(.began)
                        // The client needs a moment until it listens, and doesn't report what happens before that. So tell
                        // the listener again later.
                        for delay in [TimeAmount.milliseconds(250), .seconds(2)] {
                            follower.eventLoop.assumeIsolated().scheduleTask(in: delay) {
                                if follower.channel === channel { follower.tell(.began) }
                            }
                        }
                    case .failure: process.end { _ in follower.ended(began) }
                    }
                }
        }

        private func ended(_ began: NIODeadline) {
            self.channel = nil
            guard !self.isOver else { return }
            self.tell(.ended)
            let life = (NIODeadline.now() - began).nanoseconds / 1_000_000
            let delay = self.backoff.next(afterLifeOf: life)
            self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(delay)) { self.start() }
        }

        func stop() {
            self.isOver = true
            self.channel?.close(promise: nil)
        }
    }
}

/// Splits into lines. Of a line that is longer than the limit only the beginning is reported.
private final class EventLines: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private static let lineAtMost = 262_144
    private var line: [UInt8] = []
    private let onLine: (String) -> Void
    private let onEnd: () -> Void

    init(onLine: @escaping (String) -> Void, onEnd: @escaping () -> Void) {
        self.onLine = onLine
        self.onEnd = onEnd
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        for byte in Self.unwrapInboundIn(data).readableBytesView {
            guard byte == UInt8(ascii: "\n") else {
                if self.line.count < Self.lineAtMost { self.line.append(byte) }
                continue
            }
            self.onLine(String(decoding: self.line, as: UTF8.self))
            self.line.removeAll(keepingCapacity: true)
        }
    }

    func channelInactive(context: ChannelHandlerContext) { self.onEnd() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
