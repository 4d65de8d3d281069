import InterceptModel

/// The sides of one port: what the agent's `HolderTable` says, as links, so that a client's datagram needs no look-up.
final class PortSides {
    /// The workspace that holds all traffic of the port, whether it is served now or not.
    fileprivate(set) var holder: WorkspaceLink?
    /// The holder, if it is served now. Nil: the original answers, or the clients are refused.
    fileprivate(set) var defaultSide: WorkspaceLink?
    /// The mirrors that get copies.
    fileprivate(set) var mirrors: [WorkspaceLink] = []
}

extension SidecarAgent {
    func sides(of port: ServicePort) -> PortSides { self.sidesByPort[port] ?? PortSides() }

    /// The workspaces that get copies of what clients send to this port now.
    func mirrors(of port: ServicePort) -> [WorkspaceLink] { self.sides(of: port).mirrors }

    /// The table has changed.
    func sidesMayHaveChanged() {
        for (port, sides) in self.sidesByPort {
            let holder = self.table.holder(of: port)
            sides.holder = holder.flatMap { self.links[$0.key] }
            sides.defaultSide = (holder?.isServed ?? false) ? sides.holder : nil
            sides.mirrors = self.table.mirrors(of: port).compactMap { self.links[$0.key] }
        }
    }
}
