public import Carriers
import InterceptModel
import InterceptProtocol
import Logging
public import NIOCore
import Noise
public import Tunnel

extension SidecarAgent: TunnelServer.Delegate {
    public func tunnelServer(_ server: TunnelServer, did event: Responder.Event) {
        switch event {
        case .established(let key):
            self.unusedTimer?.cancel()
            let link = WorkspaceLink(key: key, server: server, agent: self)
            self.links[key] = link
            link.log.info("workspace connected", metadata: ["key": "\(key.abbreviated)"])
        case .resumed(let key):
            self.links[key]?.log.debug("workspace is back on a new carrier", metadata: ["key": "\(key.abbreviated)"])
            self.links[key]?.resumed()
        case .moved(let key):
            self.links[key]?.log.debug("workspace goes on by another way", metadata: ["key": "\(key.abbreviated)"])
        case .connection(let key, let event):
            self.links[key]?.handle(event)
            if case .ended(let end) = event {
                self.links[key] = nil
                // A workspace that didn't come back for `linger` has used up the waiting time already.
                self.watchUse(in: end.origin == .lingerOver ? .zero : self.configuration.tunnel.linger)
            }
        case .answered, .closeCarrier: break
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
