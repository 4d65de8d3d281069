import Carriers
import Diversion
import InterceptProtocol
import NIOCore

/// Somebody who has connected to the service, and was taken on the way.
struct Client {
    var channel: any Channel
    /// Where its urgent bytes are, in all that it says.
    var input: UrgentInput
    /// The service's.
    var port: UInt16
    /// The address that the client connected to.
    var called: SocketAddress?
    /// Where the original answers by the flags.
    var upstream: Endpoint
}

/// A way to take clients, as far as both ways are alike.
protocol Diverting: AnyObject {
    func pause(_ paused: Bool)
    func close()
}

extension ListenDiversion: Diverting {}
extension RedirectDiversion: Diverting {}
