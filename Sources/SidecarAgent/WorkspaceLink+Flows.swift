import Carriers
import InterceptModel
import InterceptProtocol
import NIOCore
import Tunnel

/// The UDP clients' flows that this workspace serves.
struct LinkFlows {
    fileprivate(set) var byNumber: [UInt64: ClientFlow] = [:]
    /// Copies of flows that another side serves.
    fileprivate(set) var copied: [UInt64: CopiedFlow] = [:]
    /// The number of the flow whose header a datagram announced, until the datagram is acknowledged.
    fileprivate var announcements: [DatagramID: UInt64] = [:]
    fileprivate var announcementOrder = CircularBuffer<DatagramID>()
    fileprivate var nextNumber: UInt64 = 0
    /// Set while received datagrams wait for the next turn of the loop.
    var pause: Scheduled<Void>?

    /// The limit of `announcements`; if an acknowledgement isn't matched any more, the header is just sent again. †
    fileprivate static let announcementsAtMost = 4 * FlowLimits.flows
    /// A payload costs a system call, as much time as several frames.
    fileprivate static let workForDatagram = 4
}

extension WorkspaceLink {
    /// Gives the flow the connection's next number. Numbers aren't reused.
    func begin(_ flow: ClientFlow) {
        flow.link?.forget(flow)
        let number = self.nextFlowNumber()
        self.flows.byNumber[number] = flow
        flow.link = self
        flow.number = number
        flow.route.begin(number)
        // A flow that returns after a refusal isn't counted again.
        guard flow.countedBy !== self else { return }
        flow.countedBy = self
        self.countFlow()
    }

    private func nextFlowNumber() -> UInt64 {
        defer { self.flows.nextNumber += 1 }
        return self.flows.nextNumber
    }

    /// The same for the copy of a flow.
    func number(_ copy: CopiedFlow) -> UInt64 {
        let number = self.nextFlowNumber()
        self.flows.copied[number] = copy
        return number
    }

    func forget(_ copy: CopiedFlow, _ number: UInt64) { self.flows.copied[number] = nil }

    /// False if the tunnel can't take the payload now.
    func send(_ payload: ByteBuffer, of flow: ClientFlow, at now: NIODeadline) -> Bool {
        guard case .workspace(let number) = flow.route.way else { return false }
        let isKnown = flow.route.isKnown
        let datagram: FlowDatagram =
            isKnown ? .payload(flow: number, payload) : .opening(flow: number, flow.header, payload)
        let bytes = datagram.encoded
        let sent = self.withConnection { connection -> (fits: Bool, id: DatagramID?) in
            guard bytes.readableBytes <= connection.greatestDatagram else { return (false, nil) }
            return (true, connection.sendDatagram(bytes, isTracked: !isKnown))
        }
        guard let sent else { return false }
        if sent.fits {
            guard let id = sent.id else { return false }
            if !isKnown { self.remember(id, of: number) }
        } else {
            guard let stream = flow.stream ?? self.openStream(for: flow) else { return false }
            stream.send(payload)
        }
        self.bytesIn += UInt64(payload.readableBytes)
        flow.route.sent(payload, at: now)
        return true
    }

    func remember(_ id: DatagramID, of number: UInt64) {
        self.flows.announcements[id] = number
        self.flows.announcementOrder.append(id)
        while self.flows.announcementOrder.count > LinkFlows.announcementsAtMost {
            self.flows.announcements[self.flows.announcementOrder.removeFirst()] = nil
        }
    }

    func datagramWasAcknowledged(_ id: DatagramID) {
        guard let number = self.flows.announcements.removeValue(forKey: id) else { return }
        self.flows.byNumber[number]?.route.headerArrived()
        self.flows.copied[number]?.route.headerArrived()
    }

    private func openStream(for flow: ClientFlow) -> FlowStream? {
        guard let stream = FlowStream(flow, link: self) else { return nil }
        flow.stream = stream
        self.access.owners.bind(stream.stream, to: stream)
        return stream
    }

    // MARK: Receiving

    func receiveDatagrams() {
        guard self.flows.pause == nil else { return }
        var turn = Turn()
        while let datagram = self.withConnection({ $0.nextDatagram() }) ?? nil {
            self.receive(datagram)
            guard turn.isOver(after: LinkFlows.workForDatagram) else { continue }
            self.flows.pause = self.agent.eventLoop.inNextTurn { [weak self] in
                self?.flows.pause = nil
                self?.receiveDatagrams()
            }
            return
        }
    }

    private func receive(_ datagram: ByteBuffer) {
        // Of a flow that has ended, or not valid from a workspace: dropped.
        guard case .datagram(let said) = FlowDatagram.parse(datagram) else { return }
        switch said {
        case .payload(let number, let payload):
            if let flow = self.flows.byNumber[number] { self.deliver(payload, to: flow) }
        case .notice(let number, let notice):
            if let flow = self.flows.byNumber[number] { self.receive(notice, of: flow) }
            self.flows.copied[number]?.receive(notice)
        case .opening: break
        }
    }

    func deliver(_ payload: ByteBuffer, to flow: ClientFlow) {
        self.bytesOut += UInt64(payload.readableBytes)
        self.agent.flows.answer(payload, to: flow)
    }

    private func receive(_ notice: FlowNotice, of flow: ClientFlow) {
        switch notice {
        case .unknown: flow.route.headerIsMissing()
        case .refused, .unmapped, .timedOut, .other: self.refused(flow)
        case .needsStream: if flow.stream == nil { _ = self.openStream(for: flow) }
        }
    }

    /// The workspace can't serve the flow: the original gets it, with the payloads that no server has seen.
    func refused(_ flow: ClientFlow) {
        let payloads = flow.route.refused(at: .now())
        self.removeFlow(flow)
        for payload in payloads { self.agent.flows.passOn(payload, of: flow, countedFor: self) }
    }

    // MARK: Ends

    /// The flow has ended, or is served elsewhere from now on.
    func forget(_ flow: ClientFlow) {
        guard flow.link === self else { return }
        self.removeFlow(flow)
        flow.route.leave()
    }

    private func removeFlow(_ flow: ClientFlow) {
        flow.stream?.close()
        flow.link = nil
        if let number = flow.number { self.flows.byNumber[number] = nil }
        flow.number = nil
    }

    /// Those of kinds and ports for which that is so.
    func forgetFlows(where isOver: (HoldingKind, ServicePort) -> Bool) {
        let (flows, copies) = (Array(self.flows.byNumber.values), Array(self.flows.copied.values))
        for flow in flows where isOver(.intercept, .init(flow.key.port, .udp)) { self.forget(flow) }
        for copy in copies where copy.port.map({ isOver(.mirror, $0) }) ?? true { copy.end() }
    }

    /// The original serves all flows from now on.
    func forgetAllFlows() {
        for flow in self.flows.byNumber.values { self.forget(flow) }
        for copy in self.flows.copied.values { copy.end() }
        self.flows.announcements = [:]
        self.flows.announcementOrder.removeAll()
    }
}
