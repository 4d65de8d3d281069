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
        /// It is in a zone in the direction of its first packet alone, as the agent's own are (`RedirectRules`).
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

    private let descriptor: CInt

    private static let pieceSize = 64 * 1_024
    /// The number of entries that the kernel tracks by default on a large machine: reading them takes a third of a second. †
    static let entriesAtMost = 262_144

    init() throws(DiversionError) {
        self.descriptor = kl_netlink_open(NETLINK_NETFILTER)
        guard self.descriptor >= 0 else { throw Self.error("can't be asked", errno) }
    }

    deinit { close(self.descriptor) }

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
        let code = try self.receive { body in
            seen += 1
            if let entry = ConntrackMessage.entry(body), isStale(entry) { stale.append(entry) }
            return seen < Self.entriesAtMost && stale.count < Self.forgottenAtOnce
        }
        guard code == 0 else { throw Self.error("doesn't tell its flows", code) }
        // Another socket, as this one may still have the unread rest of a long table.
        let other = try ConnectionTracking()
        var count = 0
        for entry in stale where try other.delete(entry) { count += 1 }
        return (count, stale.count >= Self.forgottenAtOnce)
    }

    private func delete(_ entry: Entry) throws(DiversionError) -> Bool {
        let family = entry.original.source.count == 4 ? AF_INET : AF_INET6
        try self.send(IPCTNL_MSG_CT_DELETE, family: family, flags: NLM_F_REQUEST | NLM_F_ACK, entry.name)
        let code = try self.receive { _ in true }
        // The flow may have ended by itself.
        guard code == 0 || code == ENOENT else { throw Self.error("doesn't forget a flow", code) }
        return code == 0
    }

    /// The flow whose answers have this tuple; nil if the kernel tracks none.
    func entry(answering reply: Tuple) throws(DiversionError) -> Entry? {
        let family = reply.source.count == 4 ? AF_INET : AF_INET6
        let attributes = ConntrackMessage.replyAttribute(reply)
        try self.send(IPCTNL_MSG_CT_GET, family: family, flags: NLM_F_REQUEST | NLM_F_ACK, attributes)
        var found: Entry?
        let code = try self.receive { body in
            found = ConntrackMessage.entry(body)
            return true
        }
        guard code == 0 || code == ENOENT else { throw Self.error("doesn't tell a flow", code) }
        return found
    }

    /// Has the kernel track a flow, unless it does already: as answered, and translated to another address and port of this
    /// machine.
    func keep(_ original: Tuple, to address: [UInt8], _ port: UInt16, seconds: UInt32) throws(DiversionError) {
        let family = address.count == 4 ? AF_INET : AF_INET6
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
        let attributes = ConntrackMessage.translated(original, to: address, port, seconds: seconds)
        try self.send(IPCTNL_MSG_CT_NEW, family: family, flags: flags, attributes)
        let code = try self.receive { _ in true }
        guard code == 0 || code == EEXIST else { throw Self.error("doesn't take a flow", code) }
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
        let sent = bytes.withUnsafeBytes { Glibc.send(self.descriptor, $0.baseAddress, $0.count, 0) }
        guard sent == bytes.count else { throw Self.error("can't be asked", errno) }
    }

    /// Passes each message of the answer to `body` until `body` returns false.
    ///
    /// - Returns: the error code that ended it; 0 if there was none.
    private func receive(_ body: (UnsafeRawBufferPointer) -> Bool) throws(DiversionError) -> CInt {
        var buffer = [UInt8](repeating: 0, count: Self.pieceSize)
        while true {
            let count = buffer.withUnsafeMutableBytes { recv(self.descriptor, $0.baseAddress, $0.count, 0) }
            guard count > 0 else {
                if count < 0, errno == EINTR { continue }
                throw Self.error("doesn't answer", count == 0 ? EPIPE : errno)
            }
            let end = buffer.withUnsafeBytes { bytes in
                NetlinkMessages.walk(UnsafeRawBufferPointer(rebasing: bytes[..<count])) { body($1) }
            }
            if let end { return end }
        }
    }

    private static func error(_ what: String, _ code: CInt) -> DiversionError {
        DiversionError("The kernel's table of flows (ctnetlink) \(what): \(String(cString: strerror(code))).")
    }
}

/// Parses consecutive netlink messages in a received buffer.
enum NetlinkMessages {
    /// - Parameter body: gets each message's type and content, and returns whether to go on.
    /// - Returns: the code that ended it, 0 for none; nil if more messages are to come.
    static func walk(_ bytes: UnsafeRawBufferPointer, _ body: (UInt16, UnsafeRawBufferPointer) -> Bool) -> CInt? {
        Self.walk(bytes) { header, content in
            switch CInt(header.nlmsg_type) {
            case NLMSG_DONE: return 0
            case NLMSG_ERROR: return Self.code(content)
            default: return body(header.nlmsg_type, content) ? nil : 0
            }
        }
    }

    /// The error code in an NLMSG_ERROR; 0 means success.
    static func code(_ content: UnsafeRawBufferPointer) -> CInt {
        guard content.count >= MemoryLayout<CInt>.size else { return EPROTO }
        return 0 &- content.loadUnaligned(as: CInt.self)
    }

    /// - Parameter body: gets each message, and returns a code to end with, or nil to go on.
    /// - Returns: that code; nil if there was none.
    static func walk(_ bytes: UnsafeRawBufferPointer, _ body: (nlmsghdr, UnsafeRawBufferPointer) -> CInt?) -> CInt? {
        var rest = bytes
        let headerSize = MemoryLayout<nlmsghdr>.size
        while rest.count >= headerSize {
            let header = rest.loadUnaligned(as: nlmsghdr.self)
            let size = Int(header.nlmsg_len)
            guard size >= headerSize, size <= rest.count else { return EPROTO }
            if let end = body(header, UnsafeRawBufferPointer(rebasing: rest[headerSize..<size])) { return end }
            // Messages are aligned to four bytes.
            rest = UnsafeRawBufferPointer(rebasing: rest[min((size + 3) & ~3, rest.count)...])
        }
        return nil
    }
}
#endif
