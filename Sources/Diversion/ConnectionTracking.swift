#if os(Linux)
import Libc
import CNetlink

/// The kernel's table of tracked UDP flows in this network namespace, through ctnetlink
/// (linux/netfilter/nfnetlink_conntrack.h).
///
/// The kernel translates all packets of a flow like the first, even after the rules have changed. So a client that always
/// sends from the same port reaches the workspace, or the original again, only once the kernel has forgotten its flow.
struct ConnectionTracking: ~Copyable {
    /// One flow, and how its packets are translated.
    struct Entry: Equatable {
        /// As the client sent the first packet.
        var original: Tuple
        /// As answers arrive, before they are translated back.
        var reply: Tuple
        /// The flow has a zone only in the direction of its first packet, as the agent's own connections have
        /// (`RedirectRules`).
        var isInOwnZone = false
        /// The whole attribute that identifies the flow to the kernel.
        var name: [UInt8] = []
    }

    struct Tuple: Equatable {
        /// 4 bytes or 16, in network order.
        var source: [UInt8] = []
        var destination: [UInt8] = []
        var sourcePort: UInt16 = 0
        var destinationPort: UInt16 = 0
    }

    private let socket: NetlinkSocket

    /// The number of entries that the kernel tracks by default on a large machine: reading them takes a third of a second. †
    static let entriesAtMost = 262_144

    init() throws(DiversionError) {
        self.socket = try NetlinkSocket(NETLINK_NETFILTER, about: "The kernel's table of flows (ctnetlink)")
    }

    /// The limit of flows forgotten at once, at 10 µs each: any host can send from many ports, and the calling loop has
    /// other work. †
    static let forgottenAtOnce = 4_096

    /// Has the kernel forget the UDP flows that `isStale` selects.
    ///
    /// - Returns: how many were forgotten, and whether there may be more.
    func forget(where isStale: (Entry) -> Bool) throws(DiversionError) -> (count: Int, mayBeMore: Bool) {
        var stale: [Entry] = []
        var seen = 0
        try self.send(IPCTNL_MSG_CT_GET, family: AF_UNSPEC, flags: NLM_F_REQUEST | NLM_F_DUMP, [])
        let code = try self.socket.receive { _, body in
            seen += 1
            if let entry = ConntrackMessage.entry(body), isStale(entry) { stale.append(entry) }
            return seen < Self.entriesAtMost && stale.count < Self.forgottenAtOnce
        }
        guard code == 0 else { throw self.socket.error("doesn't tell its flows", code) }
        // Another socket, as this one may still have the unread rest of a long table.
        let other = try ConnectionTracking()
        var count = 0
        for entry in stale where try other.delete(entry) { count += 1 }
        return (count, stale.count >= Self.forgottenAtOnce)
    }

    private func delete(_ entry: Entry) throws(DiversionError) -> Bool {
        let family = entry.original.source.count == 4 ? AF_INET : AF_INET6
        try self.send(IPCTNL_MSG_CT_DELETE, family: family, flags: NLM_F_REQUEST | NLM_F_ACK, entry.name)
        let code = try self.socket.receive { _, _ in true }
        // The flow may have ended by itself.
        guard code == 0 || code == ENOENT else { throw self.socket.error("doesn't forget a flow", code) }
        return code == 0
    }

    /// The flow whose answers have this tuple; nil if the kernel tracks none.
    func entry(answering reply: Tuple) throws(DiversionError) -> Entry? {
        let family = reply.source.count == 4 ? AF_INET : AF_INET6
        let attributes = ConntrackMessage.replyAttribute(reply)
        try self.send(IPCTNL_MSG_CT_GET, family: family, flags: NLM_F_REQUEST | NLM_F_ACK, attributes)
        var found: Entry?
        let code = try self.socket.receive { _, body in
            found = ConntrackMessage.entry(body)
            return true
        }
        guard code == 0 || code == ENOENT else { throw self.socket.error("doesn't tell a flow", code) }
        return found
    }

    /// Has the kernel track a flow, unless it does already: as answered, and translated to another address and port of this
    /// machine.
    func keep(_ original: Tuple, to address: [UInt8], _ port: UInt16, seconds: UInt32) throws(DiversionError) {
        let family = address.count == 4 ? AF_INET : AF_INET6
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
        let attributes = ConntrackMessage.translated(original, to: address, port, seconds: seconds)
        try self.send(IPCTNL_MSG_CT_NEW, family: family, flags: flags, attributes)
        let code = try self.socket.receive { _, _ in true }
        guard code == 0 || code == EEXIST else { throw self.socket.error("doesn't take a flow", code) }
    }

    /// Has the kernel remember a flow of this zone for this time, from now on. Its next packet sets the usual time again.
    ///
    /// - Returns: false if the kernel tracks no such flow.
    func lengthen(_ original: Tuple, inZone zone: UInt16, seconds: UInt32) throws(DiversionError) -> Bool {
        let family = original.source.count == 4 ? AF_INET : AF_INET6
        let attributes = ConntrackMessage.timed(original, inZone: zone, seconds: seconds)
        try self.send(IPCTNL_MSG_CT_NEW, family: family, flags: NLM_F_REQUEST | NLM_F_ACK, attributes)
        let code = try self.socket.receive { _, _ in true }
        guard code == 0 || code == ENOENT else { throw self.socket.error("doesn't remember a flow for longer", code) }
        return code == 0
    }

    // MARK: Netlink

    private func send(
        _ message: cntl_msg_types,
        family: CInt,
        flags: CInt,
        _ attributes: [UInt8]
    ) throws(DiversionError) {
        var header = nlmsghdr()
        let size = MemoryLayout<nlmsghdr>.size + MemoryLayout<nfgenmsg>.size + attributes.count
        header.nlmsg_len = UInt32(size)
        header.nlmsg_type = UInt16(NFNL_SUBSYS_CTNETLINK) << 8 | UInt16(message.rawValue)
        header.nlmsg_flags = UInt16(flags)
        var general = nfgenmsg()
        general.nfgen_family = UInt8(family)
        general.version = UInt8(NFNETLINK_V0)
        var bytes: [UInt8] = []
        withUnsafeBytes(of: header) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: general) { bytes.append(contentsOf: $0) }
        bytes += attributes
        try self.socket.send(bytes)
    }
}
#endif
