#if os(Linux)
import CNetlink
import InterceptModel

/// What other sidecars divert in this network namespace now, as their tables in the kernel say.
///
/// A table counts while a running program owns it, and a port while it is in the set of redirected ports: a killed sidecar's
/// table is gone, and a hanging sidecar's ports run out. Other programs' tables aren't read.
struct OtherDiversions: Equatable {
    /// In the order of the tables' making.
    var tables: [Table] = []
    /// The number by which the kernel knows this program's own table; a table made later has a larger one. Nil: there is no
    /// such table.
    var ownHandle: UInt64?

    struct Table: Equatable {
        var handle: UInt64
        /// The ports, with the names of the workspaces that hold them where the table has these names.
        var ports: [ServicePort: String?]
    }

    /// More tables of sidecars than a namespace has in practice. †
    private static let tablesAtMost = 64

    init() {}

    /// - Parameter own: the name of this program's table.
    init(besides own: String) throws(DiversionError) {
        var names: [(name: String, handle: UInt64)] = []
        for table in try NFTablesSocket().tables() where NFTables.isAgents(table.name) {
            if table.name == own {
                self.ownHandle = table.handle
            } else if table.isOwned, names.count < Self.tablesAtMost {
                names.append((table.name, table.handle))
            }
        }
        for (name, handle) in names.sorted(by: { $0.handle < $1.handle }) {
            var table = Table(handle: handle, ports: [:])
            for (set, transport) in [(RedirectRules.live, Transport.tcp), (RedirectRules.liveDatagrams, .udp)] {
                for (port, comment) in try NFTablesSocket().elements(of: set.name, in: name) {
                    table.ports[ServicePort(port, transport)] = comment
                }
            }
            if !table.ports.isEmpty { self.tables.append(table) }
        }
    }

    /// The first of these ports that another sidecar diverts.
    ///
    /// - Parameter isOlder: only in tables that are older than this program's own. If two sidecars divert a port at the same
    ///   moment, each then sees the other's table, and both agree on which was first.
    func conflict(on ports: DivertedPorts, isOlder: Bool = false) -> DiversionError? {
        let wanted =
            ports.tcp.sorted().map { ServicePort($0, .tcp) } + ports.udp.sorted().map { ServicePort($0, .udp) }
        for table in self.tables where !isOlder || table.handle < self.ownHandle ?? .max {
            for port in wanted { if let holder = table.ports[port] { return .taken(port, by: holder) } }
        }
        return nil
    }
}
#endif
