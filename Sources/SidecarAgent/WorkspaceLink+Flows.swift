import Carriers
import InterceptProtocol
import NIOCore
import Tunnel

/// The flows of UDP clients whose payloads go to this workspace.
struct LinkFlows {
    fileprivate(set) var byNumber: [UInt64: ClientFlow] = [:]
    fileprivate(set) var streams: [StreamID: FlowStream] = [:]
    /// Numbers of flows whose header was sent, by the datagram that has it.
    fileprivate var announcements: [DatagramID: UInt64] = [:]
    fileprivate var announcementOrder = CircularBuffer<DatagramID>()
    fileprivate var nextNumber: UInt64 = 0
    /// Until its next turn.
    var pause: Scheduled<Void>?

    /// Of headers in flight; one whose acknowledgement isn't heard is sent again. †
    fileprivate static let announcementsAtMost = 4 * FlowLimits.flows
    /// A payload is a system call, which takes as long as some frames.
    fileprivate static let workForDatagram = 4
}

extension WorkspaceLink {
    /// Gives the flow a number of this connection's: the next one, since none is used twice.
    func begin(_ flow: ClientFlow) {
        flow.link?.forget(flow)
        let number = self.flows.nextNumber
        self.flows.nextNumber += 1
        self.flows.byNumber[number] = flow
        flow.link = self
        flow.number = number
        flow.route.begin(number)
        // One that comes back after a refusal is no other.
        guard flow.countedBy !== self else { return }
        flow.countedBy = self
        self.countFlow()
    }

    /// False: there is no way for it now.
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

    private func remember(_ id: DatagramID, of number: UInt64) {
        self.flows.announcements[id] = number
        self.flows.announcementOrder.append(id)
        while self.flows.announcementOrder.count > LinkFlows.announcementsAtMost {
            self.flows.announcements[self.flows.announcementOrder.removeFirst()] = nil
        }
    }

    func datagramWasAcknowledged(_ id: DatagramID) {
        guard let number = self.flows.announcements.removeValue(forKey: id) else { return }
        self.flows.byNumber[number]?.route.headerArrived()
    }

    private func openStream(for flow: ClientFlow) -> FlowStream? {
        guard let stream = FlowStream(flow, link: self) else { return nil }
        flow.stream = stream
        self.flows.streams[stream.stream] = stream
        return stream
    }

    func flowStreamIsDone(_ stream: FlowStream) {
        guard self.flows.streams.removeValue(forKey: stream.stream) != nil else { return }
        self.withConnection { $0.release(stream.stream) }
    }

    // MARK: What comes

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
        // Of a flow that is no more, or nothing that a workspace may say: dropped.
        guard case .datagram(let said) = FlowDatagram.parse(datagram) else { return }
        switch said {
        case .payload(let number, let payload):
            if let flow = self.flows.byNumber[number] { self.deliver(payload, to: flow) }
        case .notice(let number, let notice):
            if let flow = self.flows.byNumber[number] { self.receive(notice, of: flow) }
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

    /// The workspace can't take it: the original gets it, with what nobody has seen.
    func refused(_ flow: ClientFlow) {
        let payloads = flow.route.refused(at: .now())
        self.removeFlow(flow)
        for payload in payloads { self.agent.flows.passOn(payload, of: flow, countedFor: self) }
    }

    // MARK: Ends

    /// It has ended, or goes another way from now on.
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

    /// They are the original's from now on.
    func forgetAllFlows() {
        for flow in self.flows.byNumber.values { self.forget(flow) }
        self.flows.announcements = [:]
        self.flows.announcementOrder.removeAll()
    }
}
