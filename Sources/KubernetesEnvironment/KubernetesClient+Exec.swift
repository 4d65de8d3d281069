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
        guard await self.execsByWebSocket() else {
            return try await Kubectl.run(
                self.words.words + request.kubectlWords,
                self.kubectlVariables,
                within: milliseconds
            )
        }
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
                        collector.late()
                        channel.close(promise: nil)
                    }
                },
                failed: { failure in
                    promise.fail(failure)
                    self.noteExecFailure(failure)
                },
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
                    guard await self.execsByWebSocket() else {
                        let variables = await self.kubectlVariables
                        let command = words.words + request.kubectlWords
                        return eventLoop.execute { Self.run(command, variables, on: eventLoop, opening) }
                    }
                    await self.startsOpening()
                    let lease: ProxyLease
                    do { lease = try await self.lease() } catch {
                        await self.hasOpened()
                        throw error
                    }
                    eventLoop.execute {
                        request.open(
                            at: lease.socket,
                            namespace: namespace,
                            on: eventLoop,
                            attach: { channel, stream in try opening.value.attach(channel, stream) },
                            speaks: { Task { await self.hasOpened() } },
                            failed: { failure in
                                opening.value.failed(failure.problem(words).what)
                                self.noteExecFailure(failure)
                            },
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

    // MARK: Turns

    /// † A program that is started in a container costs the node some tenths of a second of CPU; many at once would all be late.
    private static let openingAtMost = 8

    /// Returns when it is this way's turn to be opened; `hasOpened` must follow.
    private func startsOpening() async {
        if self.opening < Self.openingAtMost {
            self.opening += 1
        } else {
            await withCheckedContinuation { self.waitingToOpen.append($0) }
        }
    }

    private func hasOpened() {
        // The next one takes the place.
        guard self.waitingToOpen.isEmpty else { return self.waitingToOpen.removeFirst().resume() }
        self.opening -= 1
    }

    // MARK: By kubectl

    /// A WebSocket begins with a GET, for which a user needs the verb `get`. Who has `create` alone can use `kubectl exec`, which
    /// falls back to SPDY, whose POST needs no more (server 1.36.2, kubectl 1.37.1); and so can who has a server before 1.30.
    private func execsByWebSocket() async -> Bool {
        if let known = self.execWay, ContinuousClock.now - known.at < Self.execWayCountsFor { return known.isWebSocket }
        // Whoever may not even ask that is told why when it is tried.
        let isAllowed = (try? await KubernetesFacts.has(KubernetesFacts.Right("get", "pods", "exec"), self)) ?? true
        self.execWay = (isAllowed, .now)
        return isAllowed
    }

    private nonisolated func noteExecFailure(_ failure: APIFailure) {
        guard failure.reason == ExecRequest.isOld else { return }
        Task { await self.useKubectlForExec() }
    }

    private func useKubectlForExec() { self.execWay = (false, .now) }

    private static func run(
        _ words: [String],
        _ variables: [String: String],
        on eventLoop: any EventLoop,
        _ opening: NIOLoopBound<StreamRelay.Opening>
    ) {
        let process: FilterProcess
        let socket: CInt
        do throws(HostError) {
            (process, socket) = try FilterProcess.start(words, environment: variables, on: eventLoop)
        } catch {
            return opening.value.failed("\(error)")
        }
        let bound = NIOLoopBound(process, eventLoop: eventLoop)
        ClientBootstrap(group: eventLoop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try opening.value.attach(channel, bound.value) }
            }
            .withConnectedSocket(socket)
            .assumeIsolated()
            .whenComplete { result in
                guard case .failure(let error) = result else { return }
                bound.value.end(after: .zero) { (_: String) in opening.value.failed("\(error)") }
            }
    }
}

/// Reads a program's output, and makes a result of it at its end.
private final class ExecOutput: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    var stream: ExecStream?
    private var isLate = false
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

    /// Its time is over. This is its end, whether or not the channel tells of its own.
    func late() {
        self.isLate = true
        self.finish()
    }

    func channelInactive(context: ChannelHandlerContext) { self.finish() }

    func handlerRemoved(context: ChannelHandlerContext) { self.finish() }

    private func finish() {
        guard let done = self.done else { return }
        self.done = nil
        let end = self.stream?.programEnd
        var errors = String(decoding: self.stream?.errors ?? [], as: UTF8.self)
        if let end, !end.message.isEmpty { errors += "\n\(end.message)" }
        if end == nil, !self.isLate, !self.isTooLong { errors += "\nits connection to the API server was lost" }
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
