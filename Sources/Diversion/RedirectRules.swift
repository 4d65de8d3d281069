/// What the kernel is told, in nft's own language.
///
/// One table, which only the netlink socket that made it may change and which the kernel removes with that socket, whatever
/// ends its process (`flags owner`, nft(8)).
struct RedirectRules: Equatable {
    /// Of the table: `kl_` and a random word, so that another agent's can't be in the way.
    var table: String
    /// Service port to listener's port, of TCP and of UDP.
    var listeners: [UInt16: UInt16]
    var datagramListeners: [UInt16: UInt16] = [:]
    /// Connections over the loopback are redirected too.
    var includesLoopback: Bool
    /// Of the agent's own connections, which pass.
    var mark: UInt32

    /// A port is redirected while it is in the set; each stays in it for so long, and no longer than someone renews it. †
    static let lifetimeSeconds = 10

    private var name: String { "inet \(self.table)" }

    /// The table anew with these ports, in one transaction, whether or not there was one.
    func create(diverting ports: DivertedPorts) -> String {
        """
        table \(self.name) { flags owner; }
        delete table \(self.name)
        table \(self.name) {
            flags owner
            set live { type inet_service; flags timeout; timeout \(Self.lifetimeSeconds)s; }
            map listeners { type inet_service : inet_service; \(Self.elements(self.listeners))}
        \(self.datagramSets)\
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
        \(self.datagramRedirect)\
            }
            chain tracked {
                type filter hook input priority 0; policy accept;
        \(self.datagramGuard)\
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

    private static func elements(_ listeners: [UInt16: UInt16]) -> String {
        guard !listeners.isEmpty else { return "" }
        let pairs = listeners.sorted { $0.key < $1.key }.map { "\($0.key) : \($0.value)" }
        return "elements = { \(pairs.joined(separator: ", ")) }; "
    }

    // MARK: UDP, where there is any

    private var hasDatagrams: Bool { !self.datagramListeners.isEmpty }

    private var datagramSets: String {
        guard self.hasDatagrams else { return "" }
        return """
                set live_udp { type inet_service; flags timeout; timeout \(Self.lifetimeSeconds)s; }
                map listeners_udp { type inet_service : inet_service; \(Self.elements(self.datagramListeners))}

            """
    }

    /// A flow is translated as its first packet was: that of a client which the kernel knows already is made to forget
    /// (`ConnectionTracking`).
    private var datagramRedirect: String {
        self.hasDatagrams ? "        udp dport @live_udp redirect to :udp dport map @listeners_udp\n" : ""
    }

    /// Nobody calls a listener itself.
    private var datagramGuard: String {
        guard self.hasDatagrams else { return "" }
        let ports = Self.list(Set(self.datagramListeners.values))
        return """
                    udp dport { \(ports) } ct status dnat accept
                    udp dport { \(ports) } drop

            """
    }

    /// Exactly these ports, for another lifetime: what is in the set isn't renewed by adding it again.
    func renew(_ ports: DivertedPorts) -> String {
        "flush set \(self.name) live\n" + (self.hasDatagrams ? "flush set \(self.name) live_udp\n" : "")
            + self.fill(ports)
    }

    private func fill(_ ports: DivertedPorts) -> String {
        (ports.tcp.isEmpty ? "" : "add element \(self.name) live { \(Self.list(ports.tcp)) }\n")
            + (ports.udp.isEmpty ? "" : "add element \(self.name) live_udp { \(Self.list(ports.udp)) }\n")
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
