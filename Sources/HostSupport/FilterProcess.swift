import Libc
public import NIOCore
import NIOPosix

/// A child program whose standard input and output are one socket. It doesn't outlive this process.
///
/// It has a process group of its own; the whole group is ended and reaped. Standard error is read as fast as it comes,
/// within limits, and its last line is kept. Lives on one event loop.
public final class FilterProcess {
    private let eventLoop: any EventLoop
    private let pid: Int32
    private var errors: (any Channel)?
    /// The end of the program's standard error.
    private var tail: [UInt8] = []
    private var isEnding = false
    private var end: ProcessEnd?
    private var killsAt = NIODeadline.distantFuture
    private var asksAt = NIODeadline.distantFuture
    private var givesUpErrorsAt = NIODeadline.distantFuture
    private var onEnd: [(Ending) -> Void] = []
    private var result: Ending?

    public struct Ending: Equatable, Sendable {
        public var end: ProcessEnd
        /// The last line of standard error; empty if there was none.
        public var lastLine: String

        /// As a clause: "ended with code 1: No such container: api".
        public var reason: String {
            let how = if case .exited(let code) = self.end { "ended with code \(code)" } else { self.end.reason }
            return self.lastLine.isEmpty ? how : "\(how): \(self.lastLine)"
        }
    }

    /// † How long the program may take to end after SIGTERM.
    private static let grace = TimeAmount.seconds(1)
    /// A process outside the group may hold the program's standard error open.
    private static let errorsAfterEnd = TimeAmount.milliseconds(200)
    private static let look = TimeAmount.milliseconds(10)
    private static let seldom = TimeAmount.seconds(1)
    private static let tailAtMost = 2_048
    private static let lineAtMost = 200

    /// - Returns: the process, and the socket to its standard input and output, which the caller must close.
    /// - Precondition: called on the event loop, like every method here.
    public static func start(
        _ words: [String],
        environment: [String: String] = Spawn.ownEnvironment,
        on eventLoop: any EventLoop
    ) throws(HostError) -> (FilterProcess, socket: CInt) {
        eventLoop.preconditionInEventLoop()
        let program = try Self.program(words, path: environment["PATH"])
        var spawn = Spawn(program, Array(words.dropFirst()), environment: environment)
        var pair: [CInt] = [-1, -1]
        let type = SocketType.stream | SocketType.closedByExec
        guard socketpair(AF_UNIX, type, 0, &pair) == 0 else { throw .last(spawn.executable, "can't be talked to") }
        defer { close(pair[1]) }
        guard let errors = try? Pipe() else {
            let error = HostError.last(spawn.executable, "can't be listened to")
            close(pair[0])
            throw error
        }
        defer { close(errors.writer) }
        spawn.descriptors = [pair[1], pair[1], errors.writer]
        do throws(HostError) {
            let process = FilterProcess(try spawn.start(), on: eventLoop)
            process.readErrors(errors.reader)
            return (process, pair[0])
        } catch {
            close(pair[0])
            close(errors.reader)
            throw error
        }
    }

    /// Finds the command's program in PATH.
    @discardableResult
    public static func program(_ words: [String]) throws(HostError) -> String {
        try Self.program(words, path: getenv("PATH").map { String(cString: $0) })
    }

    @discardableResult
    public static func program(_ words: [String], path: String?) throws(HostError) -> String {
        guard let name = words.first, !name.isEmpty else { throw .notFound("the command is empty") }
        guard let found = Spawn.find(name, path: path) else {
            let place = name.contains("/") ? "can't be run" : "isn't in any folder of PATH"
            throw .notFound("'\(name)' \(place)")
        }
        return found
    }

    private init(_ pid: Int32, on eventLoop: any EventLoop) {
        self.pid = pid
        self.eventLoop = eventLoop
        ProcessGroups.add(pid)
        self.watch()
    }

    /// Detects the program's end by polling, as its children may hold the socket open beyond it.
    private func watch() {
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.seldom) { [weak self] in
            guard let self, !self.isEnding else { return }
            self.reap()
            if self.end == nil { self.watch() }
        }
    }

    private func reap() {
        guard self.end == nil, let end = ProcessGroups.reap(self.pid) else { return }
        self.end = end
        self.givesUpErrorsAt = .now() + Self.errorsAfterEnd
    }

    // MARK: Ending

    /// Ends the program and its whole group.
    ///
    /// - Parameters:
    ///   - delay: how long the program may take to end by itself before it gets SIGTERM.
    ///   - then: called once the program has been reaped.
    public func end(after delay: TimeAmount = .zero, then: @escaping (Ending) -> Void = { _ in }) {
        if let result = self.result { return then(result) }
        self.onEnd.append(then)
        self.asksAt = min(self.asksAt, .now() + delay)
        guard !self.isEnding else { return }
        self.isEnding = true
        self.lookForEnd()
    }

    private func lookForEnd() {
        let now = NIODeadline.now()
        self.reap()
        if let end = self.end {
            if self.errors == nil || now >= self.givesUpErrorsAt { return self.ended(end) }
        } else if now >= self.killsAt {
            ProcessGroups.send(SIGKILL, to: self.pid)
        } else if now >= self.asksAt, self.killsAt == .distantFuture {
            self.killsAt = now + Self.grace
            ProcessGroups.send(SIGTERM, to: self.pid)
            // A stopped process doesn't react to SIGTERM.
            ProcessGroups.send(SIGCONT, to: self.pid)
        }
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.look) { self.lookForEnd() }
    }

    private func ended(_ end: ProcessEnd) {
        self.errors?.close(promise: nil)
        let result = Ending(end: end, lastLine: self.lastLine)
        self.result = result
        let onEnd = self.onEnd
        self.onEnd = []
        for then in onEnd { then(result) }
    }

    private var lastLine: String {
        let lines = self.lastLines
        // kubectl exec says this behind what the program in the container said, whatever that was.
        return lines.last { !$0.hasPrefix(Self.exitOfKubectl) } ?? lines.last ?? ""
    }

    /// The last lines of standard error so far, of which the first may lack its beginning.
    public var lastLines: [String] {
        self.tail.split { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }
            .map { String(String(decoding: $0, as: UTF8.self).visibleText.prefix(Self.lineAtMost)) }
            .filter { !$0.isEmpty }
    }

    private static let exitOfKubectl = "command terminated with exit code "

    // MARK: Standard error

    private func readErrors(_ descriptor: CInt) {
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        NIOPipeBootstrap(group: self.eventLoop)
            .channelOption(.autoRead, value: false)
            .channelOption(.maxMessagesPerRead, value: 1)
            .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 16 * 1_024))
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(ErrorReader(this.value))
                }
            }
            .takingOwnershipOfDescriptor(input: descriptor)
            .assumeIsolated()
            .whenComplete { [weak self] result in
                switch result {
                case .success(let channel):
                    guard let self, self.result == nil, channel.isActive else { return channel.close(promise: nil) }
                    self.errors = channel
                    channel.read()
                case .failure: break
                }
            }
    }

    fileprivate func said(_ bytes: ByteBuffer) {
        self.tail += bytes.readableBytesView.suffix(Self.tailAtMost)
        if self.tail.count > Self.tailAtMost { self.tail.removeFirst(self.tail.count - Self.tailAtMost) }
    }

    fileprivate func saysNoMore() { self.errors = nil }
}

/// Reads at once while little comes, and with pauses while much does, so that a flood takes no time from the loop's other work.
private final class ErrorReader: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let process: FilterProcess
    private var isFlood = false
    private static let much = 8 * 1_024
    private static let pause = TimeAmount.milliseconds(10)

    init(_ process: FilterProcess) { self.process = process }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = Self.unwrapInboundIn(data)
        self.isFlood = bytes.readableBytes >= Self.much
        self.process.said(bytes)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        guard self.isFlood else { return context.read() }
        let channel = context.channel
        context.eventLoop.assumeIsolated().scheduleTask(in: Self.pause) { channel.read() }
    }

    func channelInactive(context: ChannelHandlerContext) { self.process.saysNoMore() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
