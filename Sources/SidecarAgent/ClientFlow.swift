import Carriers
import Diversion
import InterceptProtocol
import NIOCore

/// What tells one client's flow from all others.
struct FlowKey: Hashable {
    var client: ClientAddress
    /// The service's.
    var port: UInt16
}

/// One client of a UDP service: where it sends from, how it is answered, and who answers it.
final class ClientFlow {
    let key: FlowKey
    let upstream: Endpoint
    /// Where the client sends to, behind a redirect; nil: to the listener itself, or the kernel doesn't tell.
    let called: SocketAddress?
    private var listener: DatagramListener
    private(set) var client: SocketAddress
    private(set) var answersFrom: SocketAddress?
    /// When the last payload came or went.
    private(set) var usedAt = NIODeadline.now()
    /// Of the payload that the client has sent last.
    private(set) var lastSize: Int

    var route = FlowRoute()
    /// Whose number the route has.
    weak var link: WorkspaceLink?
    var number: UInt64?
    /// In whose totals it is.
    weak var countedBy: WorkspaceLink?
    /// For what no message holds.
    var stream: FlowStream?
    /// The way to the original, once it was needed.
    var original: DatagramSocket?

    init(
        _ key: FlowKey,
        upstream: Endpoint,
        called: SocketAddress?,
        _ listener: DatagramListener,
        _ arrival: DatagramListener.Arrival
    ) {
        self.key = key
        self.upstream = upstream
        self.called = called
        self.listener = listener
        self.client = arrival.client
        self.answersFrom = arrival.called
        self.lastSize = arrival.payload.readableBytes
    }

    /// Where the client's datagrams come to, with the listener's own port; nil: the system doesn't tell.
    var calledAddress: SocketAddress? {
        var address = self.answersFrom ?? self.listener.localAddress
        address?.port = self.listener.localAddress?.port
        return address
    }

    var header: ConnectionHeader {
        ConnectionHeader(transport: .udp, servicePort: self.key.port, client: self.key.client)
    }

    /// Answers leave from where the client has sent to last.
    func note(_ arrival: DatagramListener.Arrival, on listener: DatagramListener) {
        self.listener = listener
        self.client = arrival.client
        self.answersFrom = arrival.called
        self.lastSize = arrival.payload.readableBytes
        self.usedAt = .now()
    }

    func answer(_ payload: ByteBuffer) {
        self.usedAt = .now()
        self.listener.send(payload, to: self.client, from: self.answersFrom)
    }

    func end() {
        self.link?.forget(self)
        self.original?.close()
        self.original = nil
    }
}
