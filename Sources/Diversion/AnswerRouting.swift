#if os(Linux)
import Libc
import Logging
import NIOCore

/// Lets the original see a client's address when the agent connects to the original for that client, and brings the original's
/// answers back to the agent.
///
/// The agent's socket has the client's address. So the original's answers would leave for the client's machine; but the
/// table's chain `answers` marks them (`RedirectRules`), a rule of the kernel's routing sends what has that mark to a table of
/// routes, and its only route delivers everything on this machine. Without the chain no packet has the mark, so a rule that a
/// killed agent has left does nothing; the next agent in the namespace removes it.
///
/// Each agent has a table of routes of its own. Several rules with the same mark don't disturb each other.
final class AnswerRouting {
    /// IPv4 and IPv6 have rules and routes of their own.
    private enum State: Equatable {
        /// Nothing is set up.
        case absent
        /// Set up; the first client shows whether packets really come back.
        case untried
        case works
        case fails
    }

    private let table: UInt32
    private let log: Logger?
    private var states: [CInt: State] = [:]
    private var lastProblem: String?
    /// Why nothing could be set up for IPv4, or could not be if it were tried.
    private var setUpProblem: String?
    /// What clients' own datagrams have shown of each family. It holds until another one shows that it works.
    private var shown: [CInt: String] = [:]
    /// By client address, the ports of clients' connections that were open to the original when the table of rules was made.
    /// The kernel gives the agent's connections other ports only if it tracks these, which it may not do yet.
    private var directPorts: [[UInt8]: Set<UInt16>] = [:]

    private static let families = [AF_INET, AF_INET6]
    /// The upper half of the tables' numbers.
    private static let tables: UInt32 = 0x6B6C_0000

    init(table: UInt32, log: Logger?) {
        self.table = table
        self.log = log
        // So that it is known before any port is diverted.
        do throws(DiversionError) { try Self.checkRules(AF_INET, RouteSocket()) } catch {
            self.setUpProblem = "\(error)"
            self.warn("\(error)")
        }
    }

    /// The number of the table of routes that belongs to a table of rules; nil: the name isn't an agent's.
    static func table(of name: String) -> UInt32? {
        let word = name.dropFirst("kl_".count).prefix(4)
        guard name.hasPrefix("kl_"), word.utf8.count == 4, let number = UInt16(word, radix: 16) else { return nil }
        return Self.tables | UInt32(number)
    }

    /// Why this process can't bind sockets to other machines' addresses; nil: it can.
    static func refusal() -> String? {
        let descriptor = socket(AF_INET, SocketType.stream | SocketType.closedByExec, 0)
        guard descriptor >= 0 else { return String(cString: strerror(errno)) }
        defer { close(descriptor) }
        let code = OwnSocket.allow(descriptor, isIPv6: false)
        return code == 0 ? nil : String(cString: strerror(code))
    }

    /// Removes the rules and routes that killed agents have left.
    ///
    /// - Parameter living: reads the names of the tables of rules in the namespace. An agent makes its own before its routes, so
    ///   the tables are read after the routes: one that starts meanwhile isn't taken for a killed one.
    static func removeLeft(living: () throws(DiversionError) -> [String]) throws(DiversionError) {
        guard let socket = try? RouteSocket() else { return }
        let found = Self.families.map { family in
            (family, ((try? socket.rules(family)) ?? []).filter { Self.isAgents($0) })
        }
        let used = Set(try living().compactMap(Self.table))
        for (family, rules) in found {
            for rule in rules where !used.contains(rule.table) { Self.remove(family, rule.table, socket) }
        }
    }

    private static func isAgents(_ rule: RouteRule) -> Bool {
        rule.origin == RouteMessage.origin && rule.mark == RedirectRules.answerMark
            && rule.table >> 16 == Self.tables >> 16
    }

    private static func remove(_ family: CInt, _ table: UInt32, _ socket: borrowing RouteSocket) {
        _ = socket.run(.deleteRule(family, mark: RedirectRules.answerMark, table: table))
        _ = socket.run(.deleteRoute(family, table: table))
    }

    // MARK: Setting up

    /// Called when the table of rules is there.
    ///
    /// - Parameter ports: the original's TCP ports.
    func setUp(_ ports: Set<UInt16>) {
        self.states = [:]
        self.setUpProblem = nil
        self.directPorts = Self.directPorts(ports)
        for family in Self.families {
            do throws(DiversionError) {
                try self.setUp(family)
                self.states[family] = .untried
            } catch {
                self.states[family] = .absent
                // A namespace without IPv6 has no clients with IPv6.
                guard family == AF_INET else { continue }
                self.setUpProblem = "\(error)"
                self.warn("\(error)")
            }
        }
    }

    private static func directPorts(_ ports: Set<UInt16>) -> [[UInt8]: Set<UInt16>] {
        var result: [[UInt8]: Set<UInt16>] = [:]
        guard let diagnosis = try? SocketDiagnosis() else { return [:] }
        for port in ports {
            for socket in (try? diagnosis.sockets(.local, port)) ?? [] {
                result[socket.remote.address, default: []].insert(socket.remote.port)
            }
        }
        return result
    }

    private func setUp(_ family: CInt) throws(DiversionError) {
        let socket = try RouteSocket()
        try Self.checkRules(family, socket)
        // Remove the rule and route of an earlier agent whose table had the same number.
        Self.remove(family, self.table, socket)
        try self.add(family, socket)
    }

    private static func checkRules(_ family: CInt, _ socket: borrowing RouteSocket) throws(DiversionError) {
        let others = try socket.rules(family).filter { $0.isFor(RedirectRules.answerMark) && !Self.isAgents($0) }
        guard let other = others.first else { return }
        let mark = "0x" + String(RedirectRules.answerMark, radix: 16)
        throw DiversionError(
            "Another program's rule routes packets with the mark \(mark) by the table \(other.table)."
        )
    }

    private func add(_ family: CInt, _ socket: borrowing RouteSocket) throws(DiversionError) {
        let steps = [
            RouteMessage.addRoute(family, table: self.table),
            .addRule(family, mark: RedirectRules.answerMark, table: self.table),
        ]
        for step in steps {
            let code = socket.run(step)
            guard code == 0 || code == EEXIST else {
                Self.remove(family, self.table, socket)
                throw DiversionError("The kernel doesn't take a rule or route: \(String(cString: strerror(code))).")
            }
        }
    }

    /// Sets up again what another program has removed: some programs remove all rules that they don't know.
    func keep() {
        guard let socket = try? RouteSocket() else { return }
        for family in Self.families where self.states[family] == .untried || self.states[family] == .works {
            do throws(DiversionError) { try self.add(family, socket) } catch { self.fail(family, "\(error)") }
        }
    }

    func takeDown() {
        guard !self.states.isEmpty, let socket = try? RouteSocket() else { return }
        for (family, state) in self.states where state != .absent {
            Self.remove(family, self.table, socket)
            self.states[family] = .absent
        }
    }

    // MARK: Clients

    /// Why the original doesn't see clients' addresses, in one sentence; nil: it sees them, as far as is known.
    var problem: String? { self.setUpProblem ?? self.shown[AF_INET] ?? self.shown[AF_INET6] }

    /// The local address for a connection to the address that this client called; nil: one of this machine's own.
    func address(for client: SocketAddress?, calling called: SocketAddress) -> SocketAddress? {
        guard let client, let (family, address) = Self.usable(client, calling: called) else { return nil }
        switch self.states[family] {
        case .works: return address
        case .untried: break
        case .absent, .fails, nil: return nil
        }
        do throws(DiversionError) {
            try AnswerProbe.check(from: address, to: called)
            self.states[family] = .works
            self.shown[family] = nil
            return address
        } catch {
            self.fail(family, "\(error)")
            return nil
        }
    }

    /// Ports that a connection with this address must not have.
    func avoided(with address: SocketAddress) -> Set<UInt16> {
        guard !self.directPorts.isEmpty else { return [] }
        let bytes = RedirectDiversion.address(address)
        return self.directPorts[bytes.count == 4 ? SocketDiagnosis.End.mappedPrefix + bytes : bytes] ?? []
    }

    /// A client's address in the family of the address that it called, if the original could answer it.
    static func usable(
        _ client: SocketAddress,
        calling called: SocketAddress
    ) -> (family: CInt, address: SocketAddress)? {
        let (from, to) = (RedirectDiversion.address(client), RedirectDiversion.address(called))
        guard from.count == to.count, [4, 16].contains(from.count), client.scope == nil, called.scope == nil else {
            return nil
        }
        // A link-local address has a meaning on its link only, and these packets go over the loopback.
        if from.count == 16, from[0] == 0xFE, from[1] & 0xC0 == 0x80 { return nil }
        // The kernel sends no answer from a loopback address to another machine.
        if Self.isLoopback(to), !Self.isLoopback(from) { return nil }
        guard from.contains(where: { $0 != 0 }) else { return nil }
        var packed = ByteBuffer()
        packed.writeBytes(from)
        guard let address = try? SocketAddress(packedIPAddress: packed, port: 0) else { return nil }
        return (from.count == 4 ? AF_INET : AF_INET6, address)
    }

    private static func isLoopback(_ address: [UInt8]) -> Bool {
        address.count == 4 ? address[0] == 127 : address.last == 1 && address.dropLast().allSatisfy { $0 == 0 }
    }

    private func fail(_ family: CInt, _ problem: String) {
        self.states[family] = .fails
        if let socket = try? RouteSocket() { Self.remove(family, self.table, socket) }
        self.shown[family] = problem
        self.warn(problem)
    }

    private func warn(_ problem: String) {
        guard self.lastProblem != problem else { return }
        self.lastProblem = problem
        self.log?.warning("\(problem) So the original sees this sidecar's address in place of its clients'.")
    }
}
#endif
