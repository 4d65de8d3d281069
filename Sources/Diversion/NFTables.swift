#if os(Linux)
import CNetlink

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The one netlink socket that owns the diversion's table: there is one of this in a process, for its whole life.
///
/// It speaks to nf_tables itself and asks for nothing but the names of tables: other programs' rules in the namespace may hold
/// what this program has never heard of.
final class NFTables {
    private let socket: NFTablesSocket

    /// - Parameter descriptor: which the socket takes, in the place of what has it now; nil: any.
    init(at descriptor: CInt? = nil) throws(DiversionError) { self.socket = try NFTablesSocket(at: descriptor) }

    /// Does the steps as one transaction.
    func run(_ steps: [NFTablesMessage], _ purpose: String) throws(DiversionError) {
        if let failure = try self.socket.transact(steps, commits: true) { throw failure.error(whileDoing: purpose) }
    }

    /// Whether the kernel would do it: it checks the whole transaction, and forgets it.
    func check(_ steps: [NFTablesMessage]) throws(DiversionError) {
        let failure = try self.socket.transact(steps, commits: false)
        if let failure { throw failure.error(whileDoing: "checking the rules") }
    }

    /// The names of all tables of the family inet, up to a bound.
    static func tables() throws(DiversionError) -> [String] {
        // By a socket of its own: an answer that isn't read to its end stays in it.
        try NFTablesSocket().tables()
    }

    /// Tables that an earlier agent left, which had no owner. Those of others that run can't be removed, and stay.
    func removeLeftTables() throws(DiversionError) {
        for table in try Self.tables() where Self.isAgents(table) {
            _ = try? self.socket.transact([.deleteTable(table)], commits: true)
        }
    }

    /// A table's name may be any text to the kernel, as whoever made it wanted.
    static func isAgents(_ table: some StringProtocol) -> Bool {
        table.hasPrefix("kl_") && table.utf8.allSatisfy(Self.plain.contains)
    }

    private static let plain = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_".utf8)
}

/// Why the kernel took none of a transaction's steps.
struct NFTablesFailure: Equatable {
    /// Of errno.
    var code: CInt
    /// The step that it refused; nil: the transaction as a whole.
    var step: NFTablesMessage?

    func error(whileDoing purpose: String) -> DiversionError {
        let place = self.step.map { "\(purpose): \($0.subject)" } ?? purpose
        let reason = String(cString: strerror(self.code))
        switch self.code {
        case EPERM, EACCES:
            return DiversionError(
                """
                nftables (\(place)): that needs CAP_NET_ADMIN in the service's network namespace. Start the sidecar as \
                root, or its container with --cap-add NET_ADMIN.
                """
            )
        case EOPNOTSUPP, EPROTONOSUPPORT, ENOENT, EINVAL, EAFNOSUPPORT:
            let known = self.step?.modules ?? []
            let modules = known.isEmpty ? ["nf_tables"] : known
            return DiversionError(
                """
                nftables (\(place)): \(reason). This kernel can't do it, or its modules aren't loaded: it needs \
                \(modules.joined(separator: ", ")). Load them by modprobe, or divert by listen.
                """
            )
        default: return DiversionError("nftables (\(place)): \(reason).")
        }
    }
}
#endif
