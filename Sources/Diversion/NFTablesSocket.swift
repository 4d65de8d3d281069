#if os(Linux)
import Libc
import CNetlink

/// A netlink socket for nf_tables (nfnetlink). It owns the tables that it creates with `flags owner`.
final class NFTablesSocket {
    private let descriptor: CInt
    private var sequence: UInt32 = 0

    private static let pieceSize = 64 * 1_024
    /// More tables than any namespace has. †
    private static let tablesAtMost = 65_536

    /// - Parameter descriptor: the descriptor number that the socket takes, replacing what is open there; nil: any.
    init(at descriptor: CInt? = nil) throws(DiversionError) {
        let opened = kl_netlink_open(NETLINK_NETFILTER)
        guard opened >= 0 else { throw Self.error(errno, "opening netfilter") }
        guard let descriptor, descriptor != opened else {
            self.descriptor = opened
            return
        }
        defer { close(opened) }
        guard kl_take_descriptor(opened, descriptor) >= 0 else { throw Self.error(errno, "opening netfilter") }
        self.descriptor = descriptor
    }

    /// The kernel then removes the tables that the socket owns.
    deinit { close(self.descriptor) }

    /// Executes all of the steps or none; without `commits`, the kernel only checks whether it could.
    ///
    /// - Returns: nil if it succeeded.
    func transact(_ steps: [NFTablesMessage], commits: Bool) throws(DiversionError) -> NFTablesFailure? {
        guard !steps.isEmpty else { return nil }
        let first = self.sequence &+ 1
        self.sequence &+= UInt32(truncatingIfNeeded: steps.count + 2)
        try self.send(NFTablesMessage.transaction(steps, first: first, commits: commits), "sending rules")
        // The kernel does the work during the send, so all answers are there when it returns.
        var failure: NFTablesFailure?
        var isAcknowledged = false
        try self.receive(waits: false) { header, content in
            guard CInt(header.nlmsg_type) == NLMSG_ERROR else { return nil }
            let index = Int(header.nlmsg_seq &- first) - 1
            let code = NetlinkMessages.code(content)
            // Only the first error matters; later ones may be its consequences.
            if code != 0, failure == nil {
                failure = NFTablesFailure(code: code, step: steps.indices.contains(index) ? steps[index] : nil)
            }
            if code == 0, index == steps.count - 1 { isAcknowledged = true }
            return nil
        }
        if failure == nil, !isAcknowledged { throw Self.error(EPROTO, "waiting for the answer") }
        return failure
    }

    // MARK: Reading

    /// A table of the family inet.
    struct Table: Equatable {
        var name = ""
        /// The kernel numbers tables in the order of their making.
        var handle: UInt64 = 0
        /// A running program owns the table.
        var isOwned = false

        /// Nil: the message isn't about such a table.
        init?(_ content: UnsafeRawBufferPointer) {
            let start = MemoryLayout<nfgenmsg>.size
            guard content.count >= start, content[0] == UInt8(NFTablesMessage.inet) else { return nil }
            ConntrackMessage.attributes(UnsafeRawBufferPointer(rebasing: content[start...])) { type, value in
                switch UInt32(type) {
                case NFTA_TABLE_NAME.rawValue: self.name = String(decoding: value.prefix { $0 != 0 }, as: UTF8.self)
                case NFTA_TABLE_HANDLE.rawValue where value.count >= 8:
                    self.handle = UInt64(bigEndian: value.loadUnaligned(as: UInt64.self))
                case NFTA_TABLE_FLAGS.rawValue where value.count >= 4:
                    let flags = UInt32(bigEndian: value.loadUnaligned(as: UInt32.self))
                    self.isOwned = flags & NFT_TABLE_F_OWNER.rawValue != 0
                default: break
                }
            }
            guard !self.name.isEmpty else { return nil }
        }
    }

    /// The tables of the family inet, up to a bound. An answer that isn't read to its end stays in the socket, so use the
    /// socket for nothing else.
    func tables() throws(DiversionError) -> [Table] {
        try self.dump(NFT_MSG_GETTABLE, [], "listing the tables", atMost: Self.tablesAtMost) { content in
            Table(content).map { [$0] } ?? []
        }
    }

    /// The ports of a set, up to a bound, with their comments; none if the set doesn't exist. Use the socket for nothing else,
    /// as above.
    func elements(of set: String, in table: String) throws(DiversionError) -> [UInt16: String?] {
        let attributes = NetlinkAttributes {
            $0.add(NFTA_SET_ELEM_LIST_TABLE, table)
            $0.add(NFTA_SET_ELEM_LIST_SET, set)
        }
        let purpose = "listing another sidecar's ports"
        let found = try self.dump(
            NFT_MSG_GETSETELEM,
            attributes.bytes,
            purpose,
            atMost: Int(UInt16.max),
            NFTablesSet.elements(of:)
        )
        return Dictionary(found.map { ($0.port, $0.comment) }) { first, _ in first }
    }

    /// † How often a list is read if other programs change it meanwhile. Then the last reading counts.
    private static let dumpsAtMost = 3

    /// - Parameter body: what one message has of the things that are listed.
    private func dump<Thing>(
        _ request: nf_tables_msg_types,
        _ attributes: [UInt8],
        _ purpose: String,
        atMost limit: Int,
        _ body: (UnsafeRawBufferPointer) -> [Thing]
    ) throws(DiversionError) -> [Thing] {
        var things: [Thing] = []
        for _ in 0..<Self.dumpsAtMost {
            self.sequence &+= 1
            let number = self.sequence
            let type = UInt16(NFNL_SUBSYS_NFTABLES) << 8 | UInt16(request.rawValue)
            let message = NFTablesMessage.message(type, NLM_F_DUMP, number, NFTablesMessage.inet, [0, 0], attributes)
            try self.send(message, purpose)
            things = []
            var isWhole = true
            let code = try self.receive(waits: true) { header, content in
                guard header.nlmsg_seq == number else { return nil }
                if CInt(header.nlmsg_flags) & NLM_F_DUMP_INTR != 0 { isWhole = false }
                switch CInt(header.nlmsg_type) {
                case NLMSG_DONE: return NetlinkMessages.code(content)
                case NLMSG_ERROR: return NetlinkMessages.code(content)
                default:
                    things += body(content)
                    return things.count < limit ? nil : 0
                }
            }
            switch code {
            // The list's table or set has been removed since.
            case ENOENT: return []
            case EINTR: isWhole = false
            case nil, 0: break
            case let code?: throw Self.error(code, purpose)
            }
            if isWhole || things.count >= limit { break }
        }
        return things
    }

    // MARK: Netlink

    private func send(_ bytes: [UInt8], _ purpose: String) throws(DiversionError) {
        let sent = bytes.withUnsafeBytes { Glibc.send(self.descriptor, $0.baseAddress, $0.count, 0) }
        guard sent == bytes.count else { throw Self.error(sent < 0 ? errno : EMSGSIZE, purpose) }
    }

    /// Passes each message to `body` until `body` returns a code. Without `waits` it also ends, with nil, when no message
    /// is left.
    @discardableResult
    private func receive(
        waits: Bool,
        _ body: (nlmsghdr, UnsafeRawBufferPointer) -> CInt?
    ) throws(DiversionError) -> CInt? {
        var buffer = [UInt8](repeating: 0, count: Self.pieceSize)
        let flags = waits ? 0 : CInt(MSG_DONTWAIT)
        while true {
            let count = buffer.withUnsafeMutableBytes { recv(self.descriptor, $0.baseAddress, $0.count, flags) }
            guard count > 0 else {
                if count < 0, errno == EINTR { continue }
                if count < 0, errno == EAGAIN, !waits { return nil }
                throw Self.error(count == 0 ? EPIPE : errno, "waiting for the answer")
            }
            let end = buffer.withUnsafeBytes { bytes in
                NetlinkMessages.walk(UnsafeRawBufferPointer(rebasing: bytes[..<count]), body)
            }
            if let end { return end }
        }
    }

    private static func error(_ code: CInt, _ purpose: String) -> DiversionError {
        NFTablesFailure(code: code, step: nil).error(whileDoing: purpose)
    }
}
#endif
