import NIOCore
import Tunnel

/// The workspace's half of the tunnel, as `TunnelClient` shares it with its diallers.
final class DialledTunnel {
    protocol Owner: AnyObject {
        func pump()
        func schedulePump()
        func dialFailed(_ failures: [DialFailure], retryIn delay: TimeAmount)
        func lostLastStream()
    }

    let eventLoop: any EventLoop
    var initiator: Initiator
    weak var owner: (any Owner)?
    var errorPauses = ErrorPauses()
    private var lastCarrier: UInt64 = 0

    init(_ initiator: consuming Initiator, eventLoop: any EventLoop) {
        self.initiator = initiator
        self.eventLoop = eventLoop
    }

    func takeCarrierID() -> CarrierID {
        self.lastCarrier += 1
        return CarrierID(self.lastCarrier)
    }

    /// Whether there is a connection with a carrier and a live peer.
    var isConnected: Bool {
        switch self.initiator.connection {
        case .some(let connection): connection.hasCarrier && connection.presence == .live
        case .none: false
        }
    }

    var hasConnection: Bool {
        switch self.initiator.connection {
        case .some: true
        case .none: false
        }
    }

    /// While one carrier has the tunnel, others are still dialled, but their failures aren't reported.
    func report(_ failures: [DialFailure], retryIn delay: TimeAmount) {
        if !self.isConnected { self.owner?.dialFailed(failures, retryIn: delay) }
    }
}

/// Dials a sidecar's addresses of one kind, byte streams or datagrams, and moves the tunnel's messages over them.
protocol Dialler: AnyObject {
    func start()
    /// Dials no more. Open carriers stay.
    func stop()
    func closeCarriers()
    /// From now on these addresses are dialled; of another kind's, none is.
    func use(_ addresses: [TunnelClient.Address])
    /// Carriers that were dialled before may no longer work.
    func networkChanged()
    func answered(_ id: CarrierID)
    /// The tunnel doesn't need or trust the carrier any more.
    func giveUp(_ id: CarrierID)
    func pump(at now: Instant)
}
