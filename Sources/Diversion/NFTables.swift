#if os(Linux)
import Libc
import CNetlink

/// The netlink socket that owns the diversion's table. A process has one, for its whole life.
///
/// It talks to nf_tables directly. It reads only the names of tables, and the ports in other sidecars' tables: other programs'
/// rules in the namespace may contain things that this program doesn't know.
final class NFTables {
    private let socket: NFTablesSocket

    /// - Parameter descriptor: the descriptor number that the socket takes, replacing what is open there; nil: any.
    init(at descriptor: CInt? = nil) throws(DiversionError) { self.socket = try NFTablesSocket(at: descriptor) }

    /// Executes the steps as one transaction.
    func run(_ steps: [NFTablesMessage], _ purpose: String) throws(DiversionError) {
        if let failure = try self.socket.transact(steps, commits: true) { throw failure.error(whileDoing: purpose) }
    }

    /// Checks that the kernel would accept the steps, without executing them.
    func check(_ steps: [NFTablesMessage]) throws(DiversionError) {
        let failure = try self.socket.transact(steps, commits: false)
        if let failure { throw failure.error(whileDoing: "checking the rules") }
    }

    /// The names of all tables of the family inet, up to a bound.
    static func tables() throws(DiversionError) -> [String] {
        // A separate socket, as an answer that isn't read to its end stays in the socket.
        try NFTablesSocket().tables().map(\.name)
    }

    /// Removes tables that an earlier agent left without an owner. Those that running agents own can't be removed, and stay.
    func removeLeftTables() throws(DiversionError) {
        for table in try Self.tables() where Self.isAgents(table) {
            _ = try? self.socket.transact([.deleteTable(table)], commits: true)
        }
    }

    /// The kernel allows any text as a table's name, so only names of the agent's own form count.
    static func isAgents(_ table: some StringProtocol) -> Bool {
        table.hasPrefix("kl_") && table.utf8.allSatisfy(Self.plain.contains)
    }

    private static let plain = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_".utf8)
}

/// Why the kernel rejected a transaction.
struct NFTablesFailure: Equatable {
    /// An errno code.
    var code: CInt
    /// The step that the kernel rejected; nil means the transaction as a whole.
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
