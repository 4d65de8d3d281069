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

    /// The names of the tables of the family inet.
    func tables() throws(DiversionError) -> [String] {
        self.sequence &+= 1
        let type = UInt16(NFNL_SUBSYS_NFTABLES) << 8 | UInt16(NFT_MSG_GETTABLE.rawValue)
        let request = NFTablesMessage.message(type, NLM_F_DUMP, self.sequence, NFTablesMessage.inet, [0, 0], [])
        try self.send(request, "listing the tables")
        var names: [String] = []
        let code = try self.receive(waits: true) { header, content in
            switch CInt(header.nlmsg_type) {
            case NLMSG_DONE: return 0
            case NLMSG_ERROR: return NetlinkMessages.code(content)
            default:
                if let name = Self.tableName(content) { names.append(name) }
                return names.count < Self.tablesAtMost ? nil : 0
            }
        }
        if let code, code != 0 { throw Self.error(code, "listing the tables") }
        return names
    }

    private static func tableName(_ content: UnsafeRawBufferPointer) -> String? {
        let start = MemoryLayout<nfgenmsg>.size
        guard content.count >= start, content[0] == UInt8(NFTablesMessage.inet) else { return nil }
        var name: String?
        ConntrackMessage.attributes(UnsafeRawBufferPointer(rebasing: content[start...])) { type, value in
            guard UInt32(type) == NFTA_TABLE_NAME.rawValue else { return }
            name = String(decoding: value.prefix { $0 != 0 }, as: UTF8.self)
        }
        return name
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
