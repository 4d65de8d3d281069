import Carriers
import Diversion
import InterceptModel
import InterceptProtocol
import NIOCore

/// A client that has connected to the service and whose connection the sidecar has accepted.
struct Client {
    var channel: any Channel
    /// Tracks where TCP urgent bytes are in what the client sends.
    var input: UrgentInput
    /// The service's port.
    var port: UInt16
    /// The address that the client connected to.
    var called: SocketAddress?
    /// The original's address according to the flags.
    var upstream: Endpoint
}

/// What both ways of diverting clients to the sidecar have in common.
protocol Diverting: AnyObject {
    func pause(_ paused: Bool)
    func close()
}

extension ListenDiversion: Diverting {}
extension RedirectDiversion: Diverting {}
