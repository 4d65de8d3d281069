import HostSupport
import InterceptProtocol
import Libc
import Logging
import NIOCore
import SidecarInterface

/// Answers `kl-sidecar admit`, `leave`, `end` and `holders` of this user, or root, in this mount namespace. Connections of
/// other programs are closed without a word.
final class AdmissionServer {
    typealias Server = JSONLinesServer<AdmissionSocket.Request, AdmissionSocket.Reply>

    private let server: Server

    /// † Each has its answer within a turn of the loop.
    private static let connectionsAtMost = 16
    /// † From connecting to the answer's end.
    private static let lifetime = TimeAmount.seconds(5)

    /// - Parameter answer: called on the event loop.
    init(
        eventLoop: any EventLoop,
        log: Logger,
        answer: @escaping (AdmissionSocket.Request) -> AdmissionSocket.Reply
    ) {
        let log = log.limited(by: LogShare())
        self.server = Server(
            eventLoop: eventLoop,
            connectionsAtMost: Self.connectionsAtMost,
            lifetime: Self.lifetime,
            isStranger: { peer in
                guard let reason = AdmissionSocket.refusal(of: peer) else { return false }
                log.notice("a program may not say whom to admit", metadata: ["reason": "\(reason)"])
                return true
            },
            mayConnect: { _ in true },
            onConnect: { _ in },
            onRequest: { request, connection in
                // One for each connection, however many lines have come at once.
                guard !connection.isWaiting else { return }
                connection.isWaiting = true
                connection.send(answer(request))
                connection.close()
            }
        )
    }

    /// - Parameter descriptor: a socket of `AdmissionSocket`.
    func start(on descriptor: CInt) -> EventLoopFuture<Void> { self.server.start(on: descriptor) }

    func close() { self.server.close() }
}
