import Carriers
import InterceptModel
import InterceptProtocol
import NIOCore
import Tunnel

/// One mirror's copy of what a UDP client sends: a flow of that workspace's connection, whose answers are dropped.
///
/// Like any datagram, a payload that can't be sent now is dropped.
final class CopiedFlow {
    private weak var flow: ClientFlow?
    private(set) weak var link: WorkspaceLink?
    var route = FlowRoute()
    /// For payloads too large for one message.
    private var stream: MirrorCopy<ServerConnection>?
    private var streamAfter: NIODeadline?

    init(_ flow: ClientFlow, link: WorkspaceLink) {
        self.flow = flow
        self.link = link
    }

    /// The service's. Nil: the client's flow has ended.
    var port: ServicePort? { self.flow.map { ServicePort($0.key.port, .udp) } }

    func send(_ payload: ByteBuffer, at now: NIODeadline) {
        guard let link, let flow, self.route.mayTryWorkspace(at: now) else { return }
        if self.route.way == .original { self.route.begin(link.number(self)) }
        guard case .workspace(let number) = self.route.way else { return }
        let isKnown = self.route.isKnown
        let datagram: FlowDatagram =
            isKnown ? .payload(flow: number, payload) : .opening(flow: number, flow.header, payload)
        let bytes = datagram.encoded
        let sent = link.withConnection { connection -> (fits: Bool, id: DatagramID?) in
            guard bytes.readableBytes <= connection.greatestDatagram else { return (false, nil) }
            return (true, connection.sendDatagram(bytes, isTracked: !isKnown))
        }
        guard let sent else { return }
        if sent.fits {
            guard let id = sent.id else { return }
            if !isKnown { link.remember(id, of: number) }
            link.bytesIn += UInt64(payload.readableBytes)
        } else if let bytes = LengthPrefixedPayloads.frame(payload) {
            self.openStream(flow, link, at: now)?.take(bytes)
        }
    }

    /// One stream at a time, and none soon after one that the workspace refused or that fell behind.
    private func openStream(
        _ flow: ClientFlow,
        _ link: WorkspaceLink,
        at now: NIODeadline
    ) -> MirrorCopy<ServerConnection>? {
        if let stream, !stream.isOver { return stream }
        if let streamAfter, now < streamAfter { return nil }
        var header = ByteBuffer()
        flow.header.write(into: &header)
        self.streamAfter = now + FlowRoute.retryAfter
        self.stream = link.copies.begin(header, of: .init(flow.key.port, .udp))
        return self.stream
    }

    func receive(_ notice: FlowNotice) {
        switch notice {
        case .unknown: self.route.headerIsMissing()
        case .refused, .unmapped, .timedOut, .other:
            self.forgetNumber()
            _ = self.route.refused(at: .now())
        // The workspace asks for a stream for a long answer, and answers of copies are dropped.
        case .needsStream: break
        }
    }

    private func forgetNumber() {
        if case .workspace(let number) = self.route.way { self.link?.forget(self, number) }
    }

    /// The client's flow has ended, or the mirror has.
    func end() {
        self.forgetNumber()
        self.route.leave()
        self.stream?.giveUp(.tcpReset)
        self.stream = nil
        self.flow?.copies.removeAll { $0 === self }
        self.flow = nil
    }
}
