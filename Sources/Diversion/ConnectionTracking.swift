#if os(Linux)
import CNetlink

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The kernel's table of the UDP flows that it tracks in this network namespace, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h).
///
/// A flow's packets are all translated as its first one was, also after the rules are others. So a client that always sends
/// from the same port comes to the workspace, or back to the original, only once the kernel has forgotten its flow.
struct ConnectionTracking: ~Copyable {
    /// One flow, with what its packets are translated to.
    struct Entry: Equatable {
        /// As the first packet was sent.
        var original: Tuple
        /// As answers come, before they are translated back.
        var reply: Tuple
        /// The attribute that names it to the kernel, whole.
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
    /// As many as the kernel tracks by default on a large machine: reading them takes a third of a second. †
    static let entriesAtMost = 262_144

    init() throws(DiversionError) {
        self.descriptor = kl_netlink_open(NETLINK_NETFILTER)
        guard self.descriptor >= 0 else { throw Self.error("can't be asked", errno) }
    }

    deinit { close(self.descriptor) }

    /// So many are forgotten at once, some 10 µs each: anybody can send from many ports, and the loop that calls has other
    /// things to do. †
    static let forgottenAtOnce = 4_096

    /// Has the kernel forget flows of UDP that are so.
    ///
    /// - Returns: how many, and whether there may be more.
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
        // By another socket: this one may still have the rest of a table that was too long.
        let other = try ConnectionTracking()
        var count = 0
        for entry in stale where try other.delete(entry) { count += 1 }
        return (count, stale.count >= Self.forgottenAtOnce)
    }

    private func delete(_ entry: Entry) throws(DiversionError) -> Bool {
        let family = entry.original.source.count == 4 ? AF_INET : AF_INET6
        try self.send(IPCTNL_MSG_CT_DELETE, family: family, flags: NLM_F_REQUEST | NLM_F_ACK, entry.name)
        let code = try self.receive { _ in true }
        // It may have ended by itself.
        guard code == 0 || code == ENOENT else { throw Self.error("doesn't forget a flow", code) }
        return code == 0
    }

    /// The flow whose answers are sent so; nil: the kernel tracks none.
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

    /// Has the kernel know a flow, if it doesn't: as one that was answered, and that is sent to another port of this machine.
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

    /// Gives each message of the answer away, until one is enough.
    ///
    /// - Returns: the code of the error that ended it; 0: none.
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

/// Netlink's messages as they stand behind each other in what was received.
enum NetlinkMessages {
    /// - Parameter body: is given each message's type and content, and says whether to go on.
    /// - Returns: the code that ended it, 0 for none; nil: more are to come.
    static func walk(_ bytes: UnsafeRawBufferPointer, _ body: (UInt16, UnsafeRawBufferPointer) -> Bool) -> CInt? {
        Self.walk(bytes) { header, content in
            switch CInt(header.nlmsg_type) {
            case NLMSG_DONE: return 0
            case NLMSG_ERROR: return Self.code(content)
            default: return body(header.nlmsg_type, content) ? nil : 0
            }
        }
    }

    /// What an NLMSG_ERROR says; 0: that it was done.
    static func code(_ content: UnsafeRawBufferPointer) -> CInt {
        guard content.count >= MemoryLayout<CInt>.size else { return EPROTO }
        return 0 &- content.loadUnaligned(as: CInt.self)
    }

    /// - Parameter body: is given each message, and returns the code by which to end.
    /// - Returns: that code; nil: none.
    static func walk(_ bytes: UnsafeRawBufferPointer, _ body: (nlmsghdr, UnsafeRawBufferPointer) -> CInt?) -> CInt? {
        var rest = bytes
        let headerSize = MemoryLayout<nlmsghdr>.size
        while rest.count >= headerSize {
            let header = rest.loadUnaligned(as: nlmsghdr.self)
            let size = Int(header.nlmsg_len)
            guard size >= headerSize, size <= rest.count else { return EPROTO }
            if let end = body(header, UnsafeRawBufferPointer(rebasing: rest[headerSize..<size])) { return end }
            // Each begins at a multiple of four.
            rest = UnsafeRawBufferPointer(rebasing: rest[min((size + 3) & ~3, rest.count)...])
        }
        return nil
    }
}
#endif
