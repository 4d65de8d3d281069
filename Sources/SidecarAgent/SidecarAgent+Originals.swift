import Carriers
import Diversion
public import InterceptModel
import NIOCore

/// Which address the original sees.
extension SidecarAgent {
    /// What the original sees of clients that are passed on to it, as far as is known.
    public var originalSees: SeenAddress {
        guard let redirect = self.redirect else { return .sidecars(because: nil) }
        let other = self.configuration.servedPorts.first { !self.isWhereCalled($0.upstream, $0.port.number) }
        if let other { return .sidecars(because: "port \(other.port) is passed on to \(other.upstream)") }
        return redirect.hidesClients.map { .sidecars(because: $0) } ?? .clients
    }

    /// Behind a redirect, the original is at the address that the client called, unless a flag names another.
    func isWhereCalled(_ upstream: Endpoint, _ port: UInt16) -> Bool {
        self.redirect != nil && upstream == Endpoint(host: "127.0.0.1", port: port)
    }

    /// nil without a redirect: nothing is special about the agent's sockets then.
    func ownSocket(
        to upstream: Endpoint,
        _ port: ServicePort,
        for client: SocketAddress?,
        calling called: SocketAddress?
    ) -> OwnSocket? {
        guard let redirect = self.redirect else { return nil }
        return redirect.ownSocket(
            for: client,
            calling: self.isWhereCalled(upstream, port.number) ? called : nil
        )
    }

    func connect(to target: DialTarget, by own: OwnSocket?, timeout: TimeAmount) -> EventLoopFuture<any Channel> {
        let eventLoop = self.eventLoop
        let attempt = target.connect(on: eventLoop, timeout: timeout, prepare: own?.prepare)
        guard let own, own.address != nil else { return attempt }
        // All ports are in use with the client's address.
        return attempt.flatMapError { error in
            guard SocketError.isWithoutPort(error) else { return eventLoop.makeFailedFuture(error) }
            return target.connect(on: eventLoop, timeout: timeout, prepare: own.withoutAddress.prepare)
        }
    }
}
