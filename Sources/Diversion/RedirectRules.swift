/// What the kernel is told, in nft's own language.
///
/// One table, which only the netlink socket that made it may change and which the kernel removes with that socket, whatever
/// ends its process (`flags owner`, nft(8)).
struct RedirectRules: Equatable {
    /// Of the table: `kl_` and a random word, so that another agent's can't be in the way.
    var table: String
    /// Service port to listener's port.
    var listeners: [UInt16: UInt16]
    /// Connections over the loopback are redirected too.
    var includesLoopback: Bool
    /// Of the agent's own connections, which pass.
    var mark: UInt32

    /// A port is redirected while it is in the set; each stays in it for so long, and no longer than someone renews it. †
    static let lifetimeSeconds = 10

    private var name: String { "inet \(self.table)" }

    /// The table anew with these ports, in one transaction, whether or not there was one.
    func create(diverting ports: Set<UInt16>) -> String {
        """
        table \(self.name) { flags owner; }
        delete table \(self.name)
        table \(self.name) {
            flags owner
            set live { type inet_service; flags timeout; timeout \(Self.lifetimeSeconds)s; }
            map listeners { type inet_service : inet_service; \(self.elements)}
            chain prerouting {
                type nat hook prerouting priority -95; policy accept;
                iifname != "lo" jump divert
            }
            chain output {
                type nat hook output priority -105; policy accept;
        \(self.includesLoopback ? "" : Self.loopbackStays)
                jump divert
            }
            chain divert {
                meta mark \(self.mark) return
                fib daddr type != local return
                tcp flags & (fin|syn|rst|ack) == syn tcp dport @live redirect to :tcp dport map @listeners
            }
            chain tracked {
                type filter hook input priority 0; policy accept;
                ct state established accept
            }
        }
        \(self.fill(ports))
        """
    }

    /// `dstnat` is -100: just after it in prerouting and just before it in output, a service mesh's rules come first.
    private static let loopbackStays = """
                ip daddr 127.0.0.0/8 return
                ip6 daddr ::1 return
        """

    private var elements: String {
        guard !self.listeners.isEmpty else { return "" }
        let pairs = self.listeners.sorted { $0.key < $1.key }.map { "\($0.key) : \($0.value)" }
        return "elements = { \(pairs.joined(separator: ", ")) }; "
    }

    /// Exactly these ports, for another lifetime: what is in the set isn't renewed by adding it again.
    func renew(_ ports: Set<UInt16>) -> String { "flush set \(self.name) live\n" + self.fill(ports) }

    private func fill(_ ports: Set<UInt16>) -> String {
        ports.isEmpty ? "" : "add element \(self.name) live { \(Self.list(ports)) }\n"
    }

    /// For a kernel without SOCK_DESTROY: what is open to the original ends with the next packet of its client. The table's
    /// other rules don't see it, since it was translated by none.
    ///
    /// Only while a port is redirected: once that has run out, what comes is new and the original's.
    func rejectOriginals(on ports: Set<UInt16>) -> String {
        """
        table \(self.name) {
            flags owner
            chain ending {
                type filter hook input priority 0; policy accept;
        \(self.includesLoopback ? "" : Self.loopbackStays)
                meta mark \(self.mark) return
                tcp dport @live tcp dport { \(Self.list(ports)) } tcp flags & (syn|rst) == 0 reject with tcp reset
            }
        }

        """
    }

    /// Undoes it.
    var keepOriginals: String { "delete chain \(self.name) ending\n" }

    var delete: String { "delete table \(self.name)\n" }

    private static func list(_ ports: Set<UInt16>) -> String {
        ports.sorted().map { "\($0)" }.joined(separator: ", ")
    }
}
