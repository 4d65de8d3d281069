import Carriers
import InterceptModel
import InterceptProtocol
import NIOCore
import Tunnel

/// The TCP clients that this workspace serves.
extension WorkspaceLink {
    /// Opens a stream to the workspace for the client. False if none can be opened now.
    func open(_ client: Client) -> Bool {
        let bytes = self.beginning(of: client)
        let opened = self.withConnection { connection -> StreamID? in
            guard let id = connection.openStream() else { return nil }
            connection.write(bytes, to: id)
            return id
        }
        guard let stream = opened ?? nil else { return false }
        let socket = BridgedSocket(
            self.access,
            stream: stream,
            channel: client.channel,
            keepAlive: self.agent.keepAlive,
            input: client.input
        ) { [unowned self] socket, end in self.ended(socket, end, client, stream) }
        self.total += 1
        self.clients[stream] = (socket, ServicePort(client.port))
        self.access.owners.bind(stream, to: socket)
        do {
            try client.channel.pipeline.syncOperations.addHandler(socket)
        } catch {
            // The client has gone.
            socket.abandon(.tcpReset)
            return true
        }
        socket.startWaiting(memory: self.agent.earlyMemory) { byte in
            switch Answer(rawValue: byte) {
            case .connected: .open
            case .refused, .unmapped, .timedOut, .other: .refused
            case nil: .invalid
            }
        }
        return true
    }

    /// What a client's stream begins with, before the client's bytes.
    func beginning(of client: Client) -> ByteBuffer {
        let address = ClientAddress(client.channel.remoteAddress)
        let header = ConnectionHeader(transport: .tcp, servicePort: client.port, client: address)
        var bytes = ByteBuffer()
        header.write(into: &bytes)
        if let version = self.holding?.proxyProtocol {
            // Not part of the client's bytes: if the original gets the client after all, it doesn't get this header.
            ProxyHeader(client: address, destination: ClientAddress(client.called))
                .write(version, into: &bytes)
        }
        return bytes
    }

    private func ended(
        _ socket: BridgedSocket<ServerConnection>,
        _ end: BridgedSocket<ServerConnection>.End,
        _ client: Client,
        _ stream: StreamID
    ) {
        self.bytesIn += socket.bytesToStream
        self.bytesOut += socket.bytesFromStream
        self.streamIsDone(stream)
        switch end {
        case .done: self.agent.clientIsDone()
        case .refused(let early):
            self.agent.passOn(
                client,
                firstBytes: early.buffers,
                inputIsClosed: early.inputIsClosed,
                countedFor: self
            )
        }
    }

    /// The client's socket is closed or passed on: the stream can be released, so that the workspace grants another.
    private func streamIsDone(_ stream: StreamID) {
        self.clients[stream] = nil
        self.access.release(stream)
        self.stopIfDrained()
    }

    /// Open connections, UDP flows, and copies of either.
    var openCount: Int {
        self.clients.count + self.flows.byNumber.count + self.copies.count + self.flows.copied.count
    }
}
