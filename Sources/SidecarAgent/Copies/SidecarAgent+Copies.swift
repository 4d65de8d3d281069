import Carriers
import InterceptModel
import InterceptProtocol
import NIOCore

/// Which mirrors get copies of what a client sends.
extension SidecarAgent {
    /// Begins a copy of a new client for each mirror of its port, whoever then answers the client.
    ///
    /// - Parameter isProbe: nil: the client's first bytes will tell.
    func copy(_ client: Client, isProbe: Bool?, _ sides: PortSides) {
        // A client that has gone says nothing, and one that is refused at once isn't heard.
        guard client.channel.isActive, sides.defaultSide != nil || sides.holder?.holding?.refuses != true else {
            return
        }
        let mirrors = isProbe == false ? sides.mirrors : sides.mirrors.filter(\.takesProbes)
        // The client's address is known only while it is there.
        let waiting = isProbe == nil ? sides.mirrors.filter { !$0.takesProbes } : []
        let undecided = waiting.map { (link: $0, beginning: $0.beginning(of: client)) }
        guard !mirrors.isEmpty || !undecided.isEmpty else { return }
        let tap = MirrorTap(mirrors.map { $0.beginCopy(of: client, $0.beginning(of: client)) })
        if !undecided.isEmpty {
            tap.waitForFirstBytes(on: client.channel.eventLoop) {
                // Those that still mirror the port.
                undecided.filter { one in sides.mirrors.contains { $0 === one.link } }
                    .map { $0.link.beginCopy(of: client, $0.beginning) }
            }
        }
        do {
            try client.channel.pipeline.syncOperations.addHandler(tap)
        } catch {
            tap.leave()
        }
    }
}

extension WorkspaceLink {
    /// Whether the workspace wants the health probes of the service's node. Otherwise only the original gets them.
    var takesProbes: Bool { self.holding?.takesProbes ?? true }

    fileprivate func beginCopy(of client: Client, _ beginning: ByteBuffer) -> MirrorCopy<ServerConnection> {
        self.total += 1
        return self.copies.begin(beginning, of: .init(client.port))
    }

    /// Sends a UDP client's payload to this mirror, too.
    func copy(_ payload: ByteBuffer, of flow: ClientFlow, at now: NIODeadline) {
        let copy: CopiedFlow
        if let known = flow.copies.first(where: { $0.link === self }) {
            copy = known
        } else {
            // Remove copies whose mirror's connection has ended.
            flow.copies.removeAll { $0.link == nil }
            copy = CopiedFlow(flow, link: self)
            flow.copies.append(copy)
            self.countFlow()
        }
        copy.send(payload, at: now)
    }
}
