import Carriers
import Diversion
import InterceptModel
import InterceptProtocol
import NIOCore

/// Identifies one client's flow.
struct FlowKey: Hashable {
    var client: ClientAddress
    /// The service's port.
    var port: UInt16
}

/// One client of a UDP service: its address, how it is answered, and whether the workspace or the original serves it.
final class ClientFlow {
    let key: FlowKey
    let upstream: Endpoint
    /// The sides of the service's port.
    let sides: PortSides
    /// The address that the client sends to, behind a redirect. nil if it sends to the listener itself or the kernel
    /// doesn't tell.
    let called: SocketAddress?
    private var listener: DatagramListener
    private(set) var client: SocketAddress
    private(set) var answersFrom: SocketAddress?
    /// When the last payload came from the client or went to it.
    private(set) var usedAt = NIODeadline.now()
    /// The size of the client's last payload.
    private(set) var lastSize: Int

    var route = FlowRoute()
    /// The workspace connection in which `number` identifies the flow.
    weak var link: WorkspaceLink?
    var number: UInt64?
    /// The workspace connection whose totals include the flow.
    weak var countedBy: WorkspaceLink?
    /// For payloads too large for one message.
    var stream: FlowStream?
    /// One copy for each mirror that gets what the client sends.
    var copies: [CopiedFlow] = []
    /// The socket towards the original, once it has been needed.
    var original: DatagramSocket?
    /// The original has answered a socket that has the client's address.
    var isSeen = false
    /// When the kernel was last told for how long to remember that socket's flow.
    var keptAt: NIODeadline?

    init(
        _ key: FlowKey,
        upstream: Endpoint,
        sides: PortSides,
        called: SocketAddress?,
        _ listener: DatagramListener,
        _ arrival: DatagramListener.Arrival
    ) {
        self.key = key
        self.upstream = upstream
        self.sides = sides
        self.called = called
        self.listener = listener
        self.client = arrival.client
        self.answersFrom = arrival.called
        self.lastSize = arrival.payload.readableBytes
    }

    /// The address that the client's datagrams arrive at, with the listener's own port. nil if the system doesn't tell.
    var calledAddress: SocketAddress? {
        var address = self.answersFrom ?? self.listener.localAddress
        address?.port = self.listener.localAddress?.port
        return address
    }

    var header: ConnectionHeader {
        ConnectionHeader(transport: .udp, servicePort: self.key.port, client: self.key.client)
    }

    /// Answers leave from the address that the client last sent to.
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
        for copy in self.copies { copy.end() }
        self.original?.close()
        self.original = nil
    }
}
