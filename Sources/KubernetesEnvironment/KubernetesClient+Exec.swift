import HostSupport
import InterceptModel
import NIOCore
import NIOPosix

/// Programs in pods.
extension KubernetesClient {
    /// Runs one to its end. What the API server says of a program that it couldn't run is the result's `errors`.
    ///
    /// - Throws: an `APIFailure` if the API server doesn't take the question: without the right, for one.
    func exec(
        pod: String,
        container: String,
        _ command: [String],
        within milliseconds: Int64,
        outputAtMost: Int = 1_048_576
    ) async throws -> BoundedCommand.Result {
        let request = ExecRequest(pod: pod, container: container, command: command, hasInput: false)
        let lease = try await self.lease()
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let namespace = self.place.namespace
        let promise = eventLoop.makePromise(of: BoundedCommand.Result.self)
        eventLoop.execute {
            let collector = ExecOutput(limit: outputAtMost) { promise.succeed($0) }
            request.open(
                at: lease.socket,
                namespace: namespace,
                on: eventLoop,
                attach: { channel, stream in
                    collector.stream = stream
                    try channel.pipeline.syncOperations.addHandler(collector)
                    eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) {
                        collector.isLate = true
                        channel.close(promise: nil)
                    }
                },
                failed: { promise.fail($0) },
                over: { lease.end() }
            )
        }
        return try await promise.futureResult.get()
    }

    /// A way to a program's standard input and output.
    nonisolated func relay(pod: String, container: String, _ command: [String]) -> StreamRelay {
        let request = ExecRequest(pod: pod, container: container, command: command, hasInput: true)
        let namespace = self.place.namespace
        return StreamRelay("pod/\(pod)", identity: request.target(in: namespace)) { eventLoop, opening in
            Task { [words = self.words] in
                do {
                    let lease = try await self.lease()
                    eventLoop.execute {
                        request.open(
                            at: lease.socket,
                            namespace: namespace,
                            on: eventLoop,
                            attach: { channel, stream in try opening.value.attach(channel, stream) },
                            failed: { opening.value.failed($0.problem(words).what) },
                            over: { lease.end() }
                        )
                    }
                } catch {
                    let reason = ((error as? APIFailure)?.problem(words) ?? error.problem).what
                    eventLoop.execute { opening.value.failed(reason) }
                }
            }
        }
    }
}

/// Reads a program's output, and makes a result of it at its end.
private final class ExecOutput: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    var stream: ExecStream?
    var isLate = false
    private let limit: Int
    private var output: [UInt8] = []
    private var isTooLong = false
    private var done: ((BoundedCommand.Result) -> Void)?

    init(limit: Int, _ done: @escaping (BoundedCommand.Result) -> Void) {
        self.limit = limit
        self.done = done
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data).readableBytesView
        self.output += bytes.prefix(self.limit - self.output.count)
        guard self.output.count >= self.limit else { return }
        self.isTooLong = true
        context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) {
        guard let done = self.done else { return }
        self.done = nil
        let end = self.stream?.programEnd
        var errors = String(decoding: self.stream?.errors ?? [], as: UTF8.self)
        if let end, !end.message.isEmpty { errors += end.message }
        if end == nil, !self.isLate, !self.isTooLong { errors += "its connection to the API server was lost" }
        done(
            BoundedCommand.Result(
                code: self.isLate || self.isTooLong ? nil : end?.code,
                output: String(decoding: self.output, as: UTF8.self),
                errors: errors,
                isLate: self.isLate,
                isTooLong: self.isTooLong
            )
        )
        self.stream = nil
    }
}
