import HostSupport
import Libc

/// What the kernel offers to a sidecar that is started here. A container shares the host's kernel.
struct KernelFacts {
    var release: String
    /// Nil: only root can find out.
    var hasTables: Bool?
    var endsConnections: Bool?
    /// CAP_NET_ADMIN in this process's user namespace.
    var isNetworkAdmin: Bool

    /// The first version in which a table can be tied to the process that made it, and goes with it (`flags owner`).
    private static let firstWithOwners = (5, 12)

    var checks: [Check] { [self.kernel, self.tables, self.destroy, self.diversion] }

    private var kernel: Check {
        let parts = self.release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        guard parts.count == 2, (parts[0], parts[1]) < Self.firstWithOwners else {
            return .ok("kernel", "Linux \(self.release)")
        }
        return .warning(
            "kernel",
            "Linux \(self.release) is older than \(Self.firstWithOwners.0).\(Self.firstWithOwners.1), so sidecars can't redirect",
            "Use a newer kernel, or local environments alone."
        )
    }

    private var tables: Check {
        switch self.hasTables {
        case true?: .ok("nf_tables", "there")
        case nil: .ok("nf_tables", "not known without root")
        case false?:
            .warning(
                "nf_tables",
                "the kernel has none, so sidecars can't redirect",
                "Load the module (modprobe nf_tables), or use local environments alone."
            )
        }
    }

    private var destroy: Check {
        switch self.endsConnections {
        case true?: .ok("sock_diag", "ends connections (INET_DIAG_DESTROY)")
        case nil: .ok("sock_diag", "not known")
        case false?:
            // No warning, since the sidecar's agent can end connections in another way.
            .ok(
                "sock_diag",
                "can't end connections (no INET_DIAG_DESTROY): a reset rule does, at the client's next packet"
            )
        }
    }

    private var diversion: Check {
        let canRedirect = self.isNetworkAdmin && self.hasTables != false
        return .ok(
            "diversion",
            canRedirect
                ? "a sidecar started here can listen and redirect"
                : "a sidecar started here can listen; redirect needs NET_ADMIN, which sidecars in containers are given"
        )
    }
}

extension KernelFacts {
    /// The facts of this machine.
    static var here: KernelFacts {
        let release = Self.text("/proc/sys/kernel/osrelease")
        return KernelFacts(
            release: release,
            hasTables: KernelQuestion.hasTables ?? Self.namesTables(release),
            endsConnections: KernelQuestion.endsConnections,
            isNetworkAdmin: Self.hasCapability(12, in: Self.text("/proc/self/status"))
        )
    }

    private static func text(_ path: String) -> String {
        let bytes = (try? SmallFile.read(path, atMost: 16 * 1_048_576)) ?? []
        return String(decoding: bytes, as: UTF8.self).trimmingBlanks
    }

    /// Looks up a capability of capabilities(7), by its number, in the text of /proc/self/status.
    static func hasCapability(_ number: Int, in status: String) -> Bool {
        let line = status.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        guard let mask = line.flatMap({ UInt64($0.dropFirst("CapEff:".count).trimmingBlanks, radix: 16) }) else {
            return false
        }
        return mask & (1 << number) != 0
    }

    /// Whether nf_tables is among the modules that are loaded, built in or on the disk. Nil: there are no lists of modules,
    /// as in containers.
    private static func namesTables(_ release: String) -> Bool? {
        if Self.text("/proc/modules").split(separator: "\n").contains(where: { $0.hasPrefix("nf_tables ") }) {
            return true
        }
        let lists = ["modules.builtin", "modules.dep"].map { Self.text("/lib/modules/\(release)/\($0)") }
        guard lists.contains(where: { !$0.isEmpty }) else { return nil }
        return lists.contains { $0.contains("/nf_tables.ko") }
    }
}

extension StringProtocol {
    /// Without blanks and line ends around it.
    var trimmingBlanks: String {
        var rest = self[...]
        while rest.first?.isWhitespace == true { rest.removeFirst() }
        while rest.last?.isWhitespace == true { rest.removeLast() }
        return String(rest)
    }
}
