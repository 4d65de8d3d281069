public import Carriers
import InterceptModel
import InterceptProtocol
import Logging
public import NIOCore
public import Tunnel

extension WorkspaceAgent: TunnelClient.Delegate {
    public func tunnelClientHasToldAll(_ client: TunnelClient) { self.dialTurns.turnIsOver() }

    public func tunnelClient(_ client: TunnelClient, did event: Initiator.Event) {
        switch event {
        case .established:
            self.trouble = DialTrouble()
            self.presence = .live
            self.lastCarrier = client.address?.carrier
            self.servers.asked.beginAnew(at: .now())
            self.lists.beginAnew()
            self.begin()
            self.tell(.changed)
        case .resumed:
            self.logCarrier("the tunnel is back on a new carrier", of: client)
            self.lists.wereLost()
            if self.newHolder == nil { self.startIsWanted() }
            self.tell(.changed)
        case .presharedKeysDiffer:
            if self.trouble.presharedKeysDiffered() {
                self.peerLog.warning("a response that doesn't open: the preshared keys differ")
            }
            self.tell(.changed)
        case .moved:
            // A change of this machine's network can lead to a new carrier of the same kind.
            let isSameKind = client.address?.carrier == self.lastCarrier
            self.logCarrier(
                isSameKind ? "the tunnel goes on from another address" : "the tunnel goes on by another way",
                of: client
            )
            self.tell(.changed)
        case .sidecarIsBusy:
            if self.trouble.sidecarWasBusy() {
                self.peerLog.notice("the sidecar has much to do, and answers the next try")
            }
        case .datagramsAreLost: self.peerLog.notice("nothing gets through over UDP any more")
        case .answered, .closeCarrier: break
        case .connection(let event): self.handle(event)
        }
    }

    public func tunnelClient(_ client: TunnelClient, dialFailed failures: [DialFailure], retryIn delay: TimeAmount) {
        if self.trouble.failed(failures, at: .now()) { self.peerLog.warning("\(failures.text); trying again") }
        self.tell(.changed)
    }

    public func tunnelClientLostItsCarrier(_ client: TunnelClient) { self.tell(.carrierLost) }

    private func logCarrier(_ message: Logger.Message, of client: TunnelClient) {
        self.lastCarrier = client.address?.carrier
        self.peerLog.info(message, metadata: ["carrier": "\(self.lastCarrier ?? "")"])
    }

    private func handle(_ event: ConnectionEvent) {
        switch event {
        case .readable(.control): self.readControl()
        case .writable(.control): self.payStart()
        case .streamOpened(let id): self.client?.owners.bind(id, to: LocalConnection(agent: self, stream: id))
        // These are told to their streams' owners.
        case .readable, .writable, .reset, .stopped: break
        case .datagramsReadable: self.flows.receiveDatagrams()
        // This agent asks for no acknowledgements.
        case .datagramAcknowledged: break
        case .urgentLeftOut:
            self.peerLog.notice("a local server's urgent data is left out: the sidecar is too old for it; update it")
        case .presence(let presence):
            if presence == .gone { self.peerLog.warning("the sidecar doesn't answer: dialling again") }
            self.presence = presence
            self.tell(.changed)
        case .ended(let end): self.ended(end)
        }
    }

    private func ended(_ end: ConnectionEnd) {
        self.flows.endAll()
        self.client?.owners.endAll()
        self.counters.connectionEnded()
        self.lists.beginAnew()
        self.endProbe(.failed("the tunnel ended"))
        self.forgetOwed()
        defer { self.tell(.changed) }
        guard end.origin == .peer else { return }
        switch end.code {
        case .replaced: self.finish(.failed(.replaced))
        case .revoked: self.finish(.failed(.revoked))
        case .done: self.finish(.ended)
        default:
            // Nothing is dialled any more: the agent that is over would ask another connection for the service again.
            if self.isEnding { return self.close(.ended) }
            let metadata: Logger.Metadata = ["code": "\(end.code)", "reason": "\(end.reason.printable)"]
            self.peerLog.warning("the sidecar ended the connection: dialling again", metadata: metadata)
        }
    }
}
