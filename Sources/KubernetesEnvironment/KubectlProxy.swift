import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Libc
import NIOCore
import NIOPosix
import Synchronization

/// One `kubectl proxy`, which listens on a Unix socket in a folder that only this user can enter, and passes on what it is asked to
/// the API server, with the user's login.
///
/// It ends with this process, `kill -9` included: a shell beside it waits for the end of its standard input, which this process
/// holds, and then ends `kubectl` and removes the folder. `kubectl proxy` itself (1.37.1) lives on when its parent has ended.
final class KubectlProxy: Sendable {
    /// The socket's path.
    let socket: String

    private let state = Mutex(State())
    private let eventLoop: any EventLoop

    private struct State {
        /// Why it ended, as a clause; nil: it runs.
        var reason: String?
        var end: (@Sendable () -> Void)?
        var process: NIOLoopBound<FilterProcess>?
    }

    /// † `kubectl` is ready after 80 ms, on a busy machine later.
    private static let startsWithin = Duration.seconds(15)

    /// It waits in the background, so that a trap's action isn't put off until the end of what the shell waits for.
    private static let guardian = """
        folder=$1; shift
        over() { trap '' TERM; kill -s TERM 0; rm -f "$folder/api"; rmdir "$folder"; exit "$1"; }
        trap 'over 1' TERM
        exec 3<&0
        { read -r _ <&3; kill -s TERM $$; } >/dev/null &
        "$@" </dev/null 3<&- &
        wait $!
        over $?
        """

    private init(folder: String, on eventLoop: any EventLoop) {
        self.socket = "\(folder)/api"
        self.eventLoop = eventLoop
    }

    /// Returns once it listens.
    static func start(_ place: KubernetesPlace, variables: [String: String]) async throws -> KubectlProxy {
        let words = KubectlWords(place: place)
        let environment = words.variables(variables)
        do throws(HostError) {
            try FilterProcess.program(["kubectl"], path: environment["PATH"])
        } catch {
            throw APIFailure.noKubectl
        }
        let folder = try Self.makeFolder(environment["XDG_RUNTIME_DIR"])
        let proxy = KubectlProxy(folder: folder, on: MultiThreadedEventLoopGroup.singleton.next())
        var arguments = ["proxy", "--unix-socket=\(proxy.socket)", "--reject-paths=^$"]
        // Without it the path of such a server's URL would get lost. Clients before 1.24 don't know it.
        if Self.hasPath(place.server) { arguments.append("--append-server-path") }
        let command = ["sh", "-c", Self.guardian, "kubectl-proxy", folder] + words.words + arguments
        try await within(Self.startsWithin, else: APIFailure.late("kubectl proxy doesn't start")) {
            try await proxy.run(command, environment)
        }
        return proxy
    }

    private static func hasPath(_ server: String) -> Bool {
        guard let host = server.firstRange(of: "://")?.upperBound else { return false }
        return server[host...].drop { $0 != "/" }.count > 1
    }

    /// A new folder that no one else can enter; short, since a socket's address has room for 107 bytes.
    private static func makeFolder(_ runtime: String?) throws(Problem) -> String {
        let places = [runtime.flatMap { $0.hasPrefix("/") && $0.utf8.count < 64 ? $0 : nil }, "/tmp"]
        for place in places.compactMap(\.self) {
            // Six random letters, and mode 0700.
            var path = Array("\(place)/kl-proxy-XXXXXX".utf8CString)
            let isMade = path.withUnsafeMutableBufferPointer { $0.baseAddress.map { mkdtemp($0) != nil } ?? false }
            if isMade { return String(decoding: path.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self) }
        }
        throw Problem(HostError("a folder for kubectl proxy can't be made in /tmp", code: errno))
    }

    private func run(_ command: [String], _ environment: [String: String]) async throws {
        let ready = self.eventLoop.makePromise(of: Void.self)
        self.eventLoop.execute { self.launch(command, environment, ready) }
        try await withTaskCancellationHandler {
            try await ready.futureResult.get()
        } onCancel: {
            self.end()
        }
    }

    private func launch(_ command: [String], _ environment: [String: String], _ ready: EventLoopPromise<Void>) {
        let process: FilterProcess
        let socket: CInt
        do throws(HostError) {
            (process, socket) = try FilterProcess.start(command, environment: environment, on: self.eventLoop)
        } catch {
            return ready.fail(Problem(error))
        }
        let bound = NIOLoopBound(process, eventLoop: self.eventLoop)
        self.state.withLock { $0.process = bound }
        // The channel must not keep this object, whose end closes the channel.
        let over: @Sendable () -> Void = { [weak self] in
            bound.value.end { ending in
                let reason = ending.lastLine.isEmpty ? ending.reason : ending.lastLine
                self?.state.withLock { $0.process = nil }
                self?.ended(reason)
                ready.fail(APIFailure.ofKubectl(reason))
            }
        }
        ClientBootstrap(group: self.eventLoop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handler = ProxyOutput(onLine: { ready.succeed() }, onEnd: over)
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }
            .withConnectedSocket(socket)
            .assumeIsolated()
            .whenComplete { result in
                guard case .success(let channel) = result else { return over() }
                let isOver = self.state.withLock { state in
                    state.end = { channel.close(promise: nil) }
                    return state.reason != nil
                }
                if isOver { channel.close(promise: nil) }
            }
    }

    private func ended(_ reason: String) {
        self.state.withLock { state in
            state.reason = state.reason ?? reason
            state.end = nil
        }
    }

    /// It runs, and its socket is there: a cleaner of old files, or the end of the user's session, may have removed that.
    var isThere: Bool { self.reasonOfEnd == nil && access(self.socket, F_OK) == 0 }

    /// Nil: it runs.
    var reasonOfEnd: String? { self.state.withLock { $0.reason } }

    /// What a program that logs the user in has said last: it writes to the proxy's standard error, between lines of the proxy's own
    /// log, such as `E1130 18:48:44.622878   17088 proxy_server.go:147] Error while proxying request: …`.
    func wordsOfLogin() async -> String? {
        let process = self.state.withLock { $0.process }
        let lines = try? await self.eventLoop.submit { process?.value.lastLines ?? [] }.get()
        return lines?.last { !Self.isLogged($0) }?.printable
    }

    static func isLogged(_ line: String) -> Bool {
        let bytes = Array(line.utf8.prefix(6))
        return bytes.count == 6 && "EWIF".utf8.contains(bytes[0])
            && bytes[1...4].allSatisfy { (0x30...0x39).contains($0) }
            && bytes[5] == 0x20
    }

    /// Ends it, if it still runs; its requests fail then.
    func end() {
        let end = self.state.withLock { state in
            state.reason = state.reason ?? "it isn't needed any more"
            return state.end
        }
        end?()
    }

    deinit { self.end() }
}

/// `kubectl proxy` prints one line once it listens.
private final class ProxyOutput: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let onLine: () -> Void
    private let onEnd: () -> Void

    init(onLine: @escaping () -> Void, onEnd: @escaping () -> Void) {
        self.onLine = onLine
        self.onEnd = onEnd
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if Self.unwrapInboundIn(data).readableBytesView.contains(UInt8(ascii: "\n")) { self.onLine() }
    }

    func channelInactive(context: ChannelHandlerContext) { self.onEnd() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}

/// Cancels the work after this time.
func within<Value: Sendable>(
    _ time: Duration,
    else failure: some Error,
    _ work: @escaping @Sendable () async throws -> Value
) async throws -> Value {
    try await withThrowingTaskGroup(of: Value.self) { group in
        group.addTask(operation: work)
        group.addTask {
            try await Task.sleep(for: time)
            throw failure
        }
        defer { group.cancelAll() }
        guard let value = try await group.next() else { throw CancellationError() }
        return value
    }
}
