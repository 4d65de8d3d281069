#if os(Linux)
import CNFTables
import CNetlink

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// libnftables, with the one netlink socket that owns the table: there is one of this in a process, for its whole life.
final class NFTables {
    private let context: OpaquePointer

    init() throws(DiversionError) {
        // libnftables itself ends the process where there is no such socket.
        let probe = kl_netlink_open(NETLINK_NETFILTER)
        guard probe >= 0 else { throw Self.error(String(cString: strerror(errno)), whileDoing: "opening netfilter") }
        close(probe)
        guard let context = nft_ctx_new(UInt32(NFT_CTX_DEFAULT)) else {
            throw DiversionError("libnftables gives no context: the process is out of memory.")
        }
        nft_ctx_buffer_output(context)
        nft_ctx_buffer_error(context)
        self.context = context
    }

    /// Closes the socket; the kernel removes the tables that it owns.
    deinit { nft_ctx_free(self.context) }

    /// Runs the commands as one transaction, and returns what they print.
    @discardableResult
    func run(_ commands: String, _ purpose: String) throws(DiversionError) -> String {
        let result = nft_run_cmd_from_buffer(self.context, commands)
        let output = nft_ctx_get_output_buffer(self.context).map { String(cString: $0) } ?? ""
        let problem = nft_ctx_get_error_buffer(self.context).map { String(cString: $0) } ?? ""
        guard result == 0 else { throw Self.error(problem, whileDoing: purpose) }
        return output
    }

    /// Whether the kernel would do it: it checks the whole transaction, and forgets it.
    func check(_ commands: String) throws(DiversionError) {
        nft_ctx_set_dry_run(self.context, true)
        defer { nft_ctx_set_dry_run(self.context, false) }
        try self.run(commands, "checking the rules")
    }

    /// Tables that an earlier agent left, which had no owner. Those of others that run can't be removed, and stay.
    func removeLeftTables() throws(DiversionError) {
        let tables = try self.run("list tables inet", "listing the tables")
        for line in tables.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count == 3, words[0] == "table", words[1] == "inet", Self.isAgents(words[2]) else { continue }
            _ = try? self.run("delete table inet \(words[2])", "removing a left table")
        }
    }

    /// A table's name may be any text to the kernel, as whoever made it wanted, and becomes part of a command: nft's language
    /// has some that read files.
    static func isAgents(_ table: some StringProtocol) -> Bool {
        table.hasPrefix("kl_") && table.utf8.allSatisfy(Self.plain.contains)
    }

    private static let plain = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_".utf8)

    /// - Parameter problem: libnftables' own text: `Error: Could not process rule: Operation not permitted`, and the rule.
    static func error(_ problem: String, whileDoing purpose: String) -> DiversionError {
        let first =
            problem.split(separator: "\n").first { $0.contains("rror") } ?? problem.split(separator: "\n").first ?? ""
        let reason = first.split(separator: ": ").last.map(String.init) ?? "unknown"
        switch reason {
        case "Operation not permitted", "Permission denied":
            return DiversionError(
                """
                nftables (\(purpose)): that needs CAP_NET_ADMIN in the service's network namespace. Start the sidecar as \
                root, or its container with --cap-add NET_ADMIN.
                """
            )
        case "Operation not supported", "Protocol not supported", "No such file or directory", "Invalid argument",
            "Address family not supported by protocol":
            return DiversionError(
                """
                nftables (\(purpose)): \(reason). This kernel can't do it, or its modules aren't loaded: it needs nf_tables, \
                nft_chain_nat, nft_redir, nft_fib_inet and nft_ct, with flags owner (Linux 5.12). Load them by modprobe, \
                or divert by listen.
                """
            )
        default: return DiversionError("nftables (\(purpose)): \(reason.isEmpty ? "unknown error" : reason).")
        }
    }
}
#endif
