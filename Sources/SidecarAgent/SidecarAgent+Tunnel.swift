public import Carriers
import InterceptModel
import InterceptProtocol
import Logging
public import NIOCore
import Noise
public import Tunnel

extension SidecarAgent: TunnelServer.Delegate {
    public func tunnelServer(_ server: TunnelServer, did event: TunnelServer.Event) {
        switch event {
        case .established(let connection):
            let key = connection.key
            self.isHere(key)
            let link = WorkspaceLink(connection, agent: self)
            self.links[key] = link
            self.hasBeenUsed = true
            self.useMayHaveChanged()
            link.log.info("workspace connected", metadata: ["key": "\(key.abbreviated)"])
        case .resumed(let connection):
            let key = connection.key
            self.links[key]?.log.debug("workspace is back on a new carrier", metadata: ["key": "\(key.abbreviated)"])
            self.links[key]?.resumed()
        case .moved(let connection):
            let key = connection.key
            self.links[key]?.log.debug("workspace goes on by another way", metadata: ["key": "\(key.abbreviated)"])
        case .connection(let connection, let event):
            self.links[connection.key]?.handle(event)
            if case .ended(let end) = event {
                self.links[connection.key] = nil
                // A workspace that didn't come back for `linger` has used up the waiting time already.
                let linger = end.origin == .lingerOver ? TimeAmount.zero : self.configuration.tunnel.linger
                self.watchUse(in: linger)
                self.isAway(connection.key, for: linger)
            }
        }
    }

    public func tunnelServer(_ server: TunnelServer, dropped reason: DropReason, from remote: () -> SocketAddress?) {
        guard let count = self.drops.shouldLog(reason) else { return }
        let remote = remote()
        let from = Endpoint(host: remote?.ipAddress ?? "unknown", port: UInt16(clamping: remote?.port ?? 0))
        var metadata: Logger.Metadata = ["reason": "\(reason.label)", "from": "\(from)", "since_last": "\(count)"]
        if reason == .oldTimestamp, let times = server.lastOldTimestamp {
            metadata["sent"] = "\(times.sent.unixSeconds)"
            metadata["greatest"] = "\(times.greatest.unixSeconds)"
        }
        self.log.notice("dropped a message, silently", metadata: metadata)
    }
}
