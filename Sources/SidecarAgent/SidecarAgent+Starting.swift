import Carriers
import Diversion
import InterceptModel
import InterceptProtocol
public import NIOCore
import NIOPosix
import Tunnel

/// Opens all listening sockets.
extension SidecarAgent {
    public func start() -> EventLoopFuture<Ready> {
        let server = TunnelServer(
            staticKey: self.configuration.staticKey,
            configuration: self.configuration.tunnel,
            eventLoop: self.eventLoop,
            delegate: self
        )
        self.server = server
        self.accept(self.configuration.peers)
        self.claimAtStart()
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        return self.listenForWorkspaces(server).flatMap { tunnel in
            this.value.listenForDial(besides: tunnel).map { tunnel }
        }.flatMap { tunnel in
            this.value.listenForDatagrams().map { (tunnel, $0) }
        }.flatMap { tunnel, datagrams in
            this.value.listenForClients().map { Ready(tunnel: tunnel, datagrams: datagrams, services: $0) }
        }
    }

    private func listenForDatagrams() -> EventLoopFuture<Endpoint?> {
        guard let server = self.server, var endpoint = self.configuration.datagramAddress else {
            return self.eventLoop.makeSucceededFuture(nil)
        }
        do {
            if let socket = self.configuration.sockets.datagrams {
                server.listenForDatagrams(onBoundSocket: socket.descriptor, isIPv6: socket.isIPv6)
                endpoint.port = socket.port
            } else {
                endpoint.port = try server.listenForDatagrams(host: endpoint.host, port: Int(endpoint.port))
            }
            return self.eventLoop.makeSucceededFuture(endpoint)
        } catch {
            return self.eventLoop.makeFailedFuture(StartError("The tunnel can't take datagrams at \(endpoint)", error))
        }
    }

    private func listenForWorkspaces(_ server: TunnelServer) -> EventLoopFuture<SocketAddress?> {
        let address = self.configuration.tunnelAddress
        let sockets = self.configuration.sockets.tunnel
        guard !sockets.isEmpty else {
            return server.listen(host: address.host, port: Int(address.port))
                .flatMapErrorThrowing { throw StartError("The tunnel can't listen on \(address)", $0) }
        }
        return EventLoopFuture.whenAllSucceed(sockets.map { server.listen(onBoundSocket: $0) }, on: self.eventLoop)
            .map { $0.first ?? nil }
            .flatMapErrorThrowing { throw StartError("The tunnel can't use the socket that it was given", $0) }
    }

    /// Listens for `kl-sidecar dial`. If that fails, workspaces can still connect over TCP.
    private func listenForDial(besides tunnel: SocketAddress?) -> EventLoopFuture<Void> {
        guard let server = self.server else { return self.eventLoop.makeSucceededVoidFuture() }
        do {
            let place = Endpoint(host: tunnel?.ipAddress ?? "", port: UInt16(clamping: tunnel?.port ?? 0))
            let descriptor = try self.configuration.sockets.dial ?? DialSocket.listen(for: "\(place)")
            return server.listen(onDialSocket: descriptor)
        } catch {
            self.log.warning("kl-sidecar dial finds no way in here: \(error)")
            return self.eventLoop.makeSucceededVoidFuture()
        }
    }

    private func listenForClients() -> EventLoopFuture<[ServicePort: SocketAddress]> {
        do throws(StartError) {
            for served in self.configuration.servedPorts { try self.lookUp(served.upstream) }
        } catch {
            return self.eventLoop.makeFailedFuture(error)
        }
        if let redirect = self.redirect {
            return redirect.start(
                accept: { [weak self] channel, port, called in
                    self?.accepted(channel, port: port, called: called)
                },
                take: { [weak self] listener, arrival, port in
                    self?.flows.take(arrival, on: listener, port: port)
                }
            ).map { [:] }
        }
        guard let listen = self.diversion as? ListenDiversion else { return self.eventLoop.makeSucceededFuture([:]) }
        let futures = self.configuration.servedPorts.flatMap {
            served -> [EventLoopFuture<(ServicePort, SocketAddress?)>] in
            let port = served.port
            guard let endpoint = self.configuration.divert.endpoint(of: port.number) else { return [] }
            let sockets = self.configuration.sockets.services[port] ?? []
            let sources: [ListenDiversion.Source] =
                sockets.isEmpty
                ? [.address(host: endpoint.host, port: Int(endpoint.port))] : sockets.map { .socket($0) }
            return sources.map { source in
                self.listen(listen, on: source, for: port)
                    .map { (port, $0) }
                    .flatMapErrorThrowing { throw StartError("Port \(port) can't be listened for on \(endpoint)", $0) }
            }
        }
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        return EventLoopFuture.whenAllSucceed(futures, on: self.eventLoop).flatMapThrowing { bound in
            let listeners = bound.compactMap { port, address in address.map { (port, $0) } }
            try this.value.refuseLoops(listeners)
            return Dictionary(listeners, uniquingKeysWith: { first, _ in first })
        }
    }

    private func listen(
        _ diversion: ListenDiversion,
        on source: ListenDiversion.Source,
        for port: ServicePort
    ) -> EventLoopFuture<SocketAddress?> {
        switch port.transport {
        case .tcp:
            diversion.listen(on: source) { [weak self] in
                self?.accepted($0, port: port.number, called: $0.localAddress)
            }
        case .udp:
            diversion.listenForDatagrams(on: source) { [weak self] listener, arrival in
                self?.flows.take(arrival, on: listener, port: port.number)
            }
        }
    }

    private func lookUp(_ upstream: Endpoint) throws(StartError) {
        do {
            // A service told to listen on "localhost" may listen on ::1 only, so both loopback addresses are tried.
            self.upstreams[upstream] =
                upstream.host == "127.0.0.1"
                ? DialTarget(loopbackPort: Int(upstream.port))
                : try DialTarget(host: upstream.host, port: Int(upstream.port))
        } catch {
            throw StartError("The original's address \(upstream) can't be looked up", error)
        }
    }

    /// A sidecar configured as its own original would connect to itself until it runs out of descriptors.
    private func refuseLoops(_ listeners: [(port: ServicePort, address: SocketAddress)]) throws {
        let own = Set((try? System.enumerateDevices())?.compactMap { $0.address?.ipAddress } ?? [])
        for served in self.configuration.servedPorts {
            let upstream = served.upstream
            for address in self.upstreams[upstream]?.addresses ?? [] {
                let isOwn = listeners.contains { port, listener in
                    guard port.transport == served.port.transport, listener.port == address.port,
                        let here = listener.ipAddress, let there = address.ipAddress
                    else { return false }
                    return here == there || (["0.0.0.0", "::"].contains(here) && own.contains(there))
                }
                guard isOwn else { continue }
                throw StartError(
                    """
                    The original's address \(upstream) is where this sidecar itself listens. Let the service listen on \
                    another port, and name it: \
                    --service-port \(upstream.port):127.0.0.1:OTHER_PORT\(served.port.transport.suffix).
                    """
                )
            }
        }
    }
}
