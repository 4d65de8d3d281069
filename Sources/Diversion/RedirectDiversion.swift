public import InterceptModel
import Libc
public import Logging
public import NIOCore

/// Diversion in the kernel, by nftables in the process's network namespace: the service keeps its port and isn't aware of it.
///
/// While nothing is diverted, nothing is in the kernel; and nothing is left behind: the kernel removes the table when its
/// process ends, and stops redirecting unless this event loop renews the ports.
public final class RedirectDiversion {
    public struct Configuration: Sendable {
        public var ports: [ServicePort]
        public var loopback: Loopback
        /// The descriptor number that the table's owner socket takes, replacing what is open there: 0, for a program that
        /// doesn't read its standard input. nil: any.
        ///
        /// The kernel closes a killed process's descriptors from the highest to the lowest. The table must still exist
        /// while clients' connections are reset, or the resets leave from the wrong port.
        public var ownerDescriptor: CInt?
        public var log: Logger?

        public init(ports: [ServicePort], loopback: Loopback, log: Logger?) {
            self.ports = ports
            self.loopback = loopback
            self.log = log
        }
    }

    /// Where connections over the namespace's loopback go, which health checks may use.
    public enum Loopback: String, Sendable, CaseIterable {
        case original
        case workspace
    }

    /// SO_MARK of the agent's own connections, which the rules let pass. It avoids the bits that Kubernetes (0xC000) and
    /// Cilium (0x0F00) read.
    public static let mark: UInt32 = 0x206C

    let configuration: Configuration
    let eventLoop: any EventLoop
    let listening: ListenDiversion

    #if os(Linux)
    private var nftables: NFTables?
    private(set) var rules: RedirectRules?
    private(set) var diverted = DivertedPorts()
    /// Repeats the sweeps for stale UDP flows for a while after a change.
    var flowSweep = FlowSweep()
    private var isTableThere = false
    /// Ports for which the table resets connections to the original.
    private var rejected: Set<UInt16> = []
    private var renewal: Ticker?
    private var removal: Ticker?
    private var lastProblem: DiversionError?
    /// nil: the original can't see its clients' addresses here.
    private var answers: AnswerRouting?
    /// Why `answers` is nil, as a clause.
    private var hidesClientsFromStart: String?
    #endif

    /// A third of the kernel's timeout. †
    private static let renewEvery = TimeAmount.seconds(3)
    /// How often to check whether the last redirected connection has ended. †
    private static let removeEvery = TimeAmount.milliseconds(250)

    /// - Parameters:
    ///   - prepare: as for `ListenDiversion`.
    ///   - setUp: the same.
    public init(
        _ configuration: Configuration,
        eventLoop: any EventLoop,
        prepare: @escaping @Sendable (any Channel) -> Void,
        setUp: @escaping @Sendable (any Channel) throws -> Void
    ) {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.listening = ListenDiversion(eventLoop: eventLoop, prepare: prepare, setUp: setUp)
    }

    public func pause(_ paused: Bool) { self.listening.pause(paused) }

    #if os(Linux)
    /// Checks that the kernel can redirect, and listens for the redirected clients.
    ///
    /// - Parameters:
    ///   - accept: gets each connection, the service port it came to, and the address that the client called.
    ///   - take: gets each datagram, with the service's UDP port it came to.
    public func start(
        accept: @escaping (any Channel, _ port: UInt16, _ called: SocketAddress) -> Void,
        take: @escaping (DatagramListener, DatagramListener.Arrival, _ port: UInt16) -> Void = { _, _, _ in }
    ) -> EventLoopFuture<Void> {
        do {
            let nftables = try NFTables(at: self.configuration.ownerDescriptor)
            try nftables.removeLeftTables()
            try AnswerRouting.removeLeft { () throws(DiversionError) in try NFTables.tables() }
            self.nftables = nftables
        } catch {
            return self.eventLoop.makeFailedFuture(error)
        }
        let ports = DivertedPorts(self.configuration.ports)
        let listeners = ports.tcp.map { port in
            self.listen { channel in
                // A client that calls the listener itself is refused: it could be this agent in a loop, or bypass the
                // namespace's rules.
                guard let called = Self.originalDestination(of: channel) else { return Self.refuse(channel) }
                accept(channel, port, called)
            }
            .map { (port, $0) }
        }
        let datagramListeners = ports.udp.map { port in
            self.listenForDatagrams { take($0, $1, port) }.map { (port, $0) }
        }
        let this = NIOLoopBound(self, eventLoop: self.eventLoop)
        return EventLoopFuture.whenAllSucceed(listeners, on: self.eventLoop)
            .and(EventLoopFuture.whenAllSucceed(datagramListeners, on: self.eventLoop))
            .flatMapThrowing { connections, datagrams in
                try this.value.prepare(
                    Dictionary(connections) { first, _ in first },
                    Dictionary(datagrams) { first, _ in first }
                )
            }
    }

    private func listen(_ accept: @escaping (any Channel) -> Void) -> EventLoopFuture<UInt16> {
        do throws(DiversionError) {
            let socket = try DiversionSocket.open()
            return self.listening.listen(on: .socket(socket), accept: accept).flatMapThrowing { address in
                guard let port = address?.port, let number = UInt16(exactly: port) else {
                    throw DiversionError("A listener for redirected connections has no port.")
                }
                return number
            }
        } catch {
            return self.eventLoop.makeFailedFuture(error)
        }
    }

    /// Resets the connection: SO_LINGER with a time of 0.
    private static func refuse(_ channel: any Channel) {
        (channel as? any SocketOptionProvider)?.setSoLinger(linger(l_onoff: 1, l_linger: 0))
            .assumeIsolated().whenFailure { _ in }
        channel.close(promise: nil)
    }

    private func prepare(
        _ listeners: [UInt16: UInt16],
        _ datagramListeners: [UInt16: UInt16]
    ) throws(DiversionError) {
        let random = UInt64.random(in: .min ... .max)
        let word = String(repeating: "0", count: 16) + String(random, radix: 16)
        var rules = RedirectRules(
            table: "kl_" + word.suffix(16),
            listeners: listeners,
            datagramListeners: datagramListeners,
            includesLoopback: self.configuration.loopback == .workspace,
            mark: Self.mark
        )
        let all = DivertedPorts(tcp: Set(listeners.keys), udp: Set(datagramListeners.keys))
        self.answers = self.answerRouting(&rules, all)
        try self.nftables?.check(rules.create(diverting: all))
        self.rules = rules
    }

    /// nil: this process or kernel can't do it; the log has the reason.
    private func answerRouting(_ rules: inout RedirectRules, _ all: DivertedPorts) -> AnswerRouting? {
        guard let table = AnswerRouting.table(of: rules.table), let nftables = self.nftables else { return nil }
        let without = rules
        let reason: String
        var short: String?
        if let refusal = AnswerRouting.refusal() {
            reason = refusal
        } else {
            do throws(DiversionError) {
                rules.returnsAnswers = true
                try nftables.check(rules.create(diverting: all))
                return AnswerRouting(table: table, log: self.configuration.log)
            } catch {
                reason = error.description
                short = "the kernel doesn't take the rules that this needs, as the sidecar's log says"
            }
        }
        rules = without
        self.hidesClientsFromStart = short ?? reason
        self.configuration.log?.info(
            "the original will see this sidecar's address in place of its clients'",
            metadata: ["reason": "\(reason)"]
        )
        return nil
    }

    /// From this call's return, new connections to exactly these ports are redirected. Connections redirected before
    /// continue, even if `ports` is empty: the table that translates them is removed only after the last of them has ended.
    public func divert(_ ports: DivertedPorts) throws(DiversionError) {
        guard let rules = self.rules, let nftables = self.nftables else {
            throw DiversionError("Nothing can be diverted: the listeners aren't there.")
        }
        guard ports != self.diverted else { return }
        let before = self.diverted
        let new = DivertedPorts(tcp: ports.tcp.subtracting(before.tcp), udp: ports.udp.subtracting(before.udp))
        if let conflict = self.conflict(on: new) { throw conflict }
        try self.change(to: ports, rules, nftables)
        if let conflict = self.conflict(on: new, isOlder: true) {
            try self.change(to: before, rules, nftables)
            if before.isEmpty, self.removal == nil { self.removeTableSoon() }
            throw conflict
        }
        self.diverted = ports
        self.moveFlows(of: ports.udp.symmetricDifference(before.udp))
        self.lastProblem = nil
        self.renewal?.cancel()
        self.renewal = nil
        self.removal?.cancel()
        self.removal = nil
        if ports.isEmpty { self.removeTableSoon() } else { self.renewFromTimeToTime() }
    }

    /// The conflict with another sidecar in this network namespace that diverts one of these ports; nil: there is none.
    public func conflict(on ports: DivertedPorts) -> DiversionError? { self.conflict(on: ports, isOlder: false) }

    private func conflict(on ports: DivertedPorts, isOlder: Bool) -> DiversionError? {
        guard !ports.isEmpty, let rules = self.rules else { return nil }
        do throws(DiversionError) {
            return try OtherDiversions(besides: rules.table).conflict(on: ports, isOlder: isOlder)
        } catch {
            self.configuration.log?.warning("whether another sidecar diverts here can't be told: \(error)")
            return nil
        }
    }

    /// The workspaces that hold the ports. The kernel's table has their names from its next change or renewal on.
    public var labels: [ServicePort: String] {
        get { self.rules?.labels ?? [:] }
        set { self.rules?.labels = newValue }
    }

    private func change(
        to ports: DivertedPorts,
        _ rules: RedirectRules,
        _ nftables: NFTables
    ) throws(DiversionError) {
        if self.isTableThere {
            // Connections opened to the original while its port wasn't redirected aren't reset when the port is redirected again.
            let keeps = !self.rejected.isSubset(of: ports.tcp)
            do throws(DiversionError) {
                try nftables.run((keeps ? rules.keepOriginals : []) + rules.renew(ports), "changing the ports")
                if keeps { self.rejected = [] }
            } catch {
                // If another program removed the table, make it again.
                guard !ports.isEmpty else { throw error }
                try self.makeTable(ports, "making the table")
            }
        } else if !ports.isEmpty {
            try self.makeTable(ports, "making the table")
            self.isTableThere = true
        }
    }

    private func makeTable(_ ports: DivertedPorts, _ purpose: String) throws(DiversionError) {
        guard let rules = self.rules, let nftables = self.nftables else { return }
        try nftables.run(rules.create(diverting: ports), purpose)
        self.rejected = []
        self.answers?.setUp(Set(rules.listeners.keys))
    }

    /// Renewed by the loop that accepts the connections: if it hangs, the kernel's redirection expires.
    private func renewFromTimeToTime() {
        self.renewal = Ticker(self.eventLoop, every: Self.renewEvery) { [weak self] in
            self?.renew()
            return true
        }
    }

    private func renew() {
        guard let rules = self.rules, let nftables = self.nftables, !self.diverted.isEmpty else { return }
        do throws(DiversionError) {
            try nftables.run(rules.renew(self.diverted), "renewing the ports")
            self.answers?.keep()
        } catch {
            do throws(DiversionError) {
                try self.makeTable(self.diverted, "making the table again")
                self.configuration.log?.warning("the diversion's table had gone, and is there again")
            } catch {
                guard self.lastProblem != error else { return }
                self.lastProblem = error
                self.configuration.log?.error("the diversion can't be renewed: \(error)")
                return
            }
        }
        self.lastProblem = nil
    }

    /// The table stays while redirected connections are open: without a rule that tracks connections, the kernel would
    /// forget how to translate them.
    private func removeTableSoon() {
        guard self.isTableThere else { return }
        self.removeTableIfUnused()
        guard self.isTableThere else { return }
        self.removal = Ticker(self.eventLoop, every: Self.removeEvery) { [weak self] in
            guard let self, self.isTableThere else { return false }
            self.removeTableIfUnused()
            return self.isTableThere
        }
    }

    private func removeTableIfUnused() {
        guard self.diverted.isEmpty, !self.isInUse else { return }
        self.removeTable()
        self.removal?.cancel()
        self.removal = nil
    }

    private func removeTable() {
        guard self.isTableThere, let rules = self.rules, let nftables = self.nftables else { return }
        self.isTableThere = false
        self.rejected = []
        self.answers?.takeDown()
        do throws(DiversionError) {
            try nftables.run(rules.delete, "removing the table")
        } catch {
            // It may be gone already, for example with its namespace.
            self.configuration.log?.debug("the diversion's table can't be removed: \(error)")
        }
    }

    /// Whether a redirected connection is open or being opened, or one of the agent's own to the original, which may need its
    /// answers routed.
    private var isInUse: Bool {
        do throws(DiversionError) {
            let diagnosis = try SocketDiagnosis()
            for port in self.rules?.listeners.values.sorted() ?? [] where try !diagnosis.sockets(.local, port).isEmpty {
                return true
            }
            guard self.answers != nil else { return false }
            for port in self.rules?.listeners.keys.sorted() ?? [] {
                if try diagnosis.sockets(.remote, port).contains(where: { $0.mark == Self.mark }) { return true }
            }
            return false
        } catch {
            self.configuration.log?.warning("\(error)")
            return false
        }
    }

    // MARK: The original's connections

    /// Why the original doesn't see its clients' addresses, as a clause; nil: it does, as far as is known before a client has
    /// come.
    public var hidesClients: String? {
        guard let answers else { return self.hidesClientsFromStart ?? "the diversion isn't there yet" }
        return answers.problem.map(Self.clause)
    }

    /// A sentence, to follow a colon.
    private static func clause(_ sentence: String) -> String {
        let end = sentence.hasSuffix(".") ? 1 : 0
        return sentence.prefix(1).lowercased() + sentence.dropFirst().dropLast(end)
    }

    /// How to connect to the original at the address that this client called; nil: that address is another machine's.
    public func ownSocket(for client: SocketAddress?, calling called: SocketAddress?) -> OwnSocket {
        guard self.isTableThere, let called, let answers = self.answers else { return OwnSocket(from: nil) }
        guard let address = answers.address(for: client, calling: called) else { return OwnSocket(from: nil) }
        return OwnSocket(from: address, avoiding: answers.avoided(with: address))
    }

    /// The number of connections that are open to the original on these ports, except the agent's own.
    public func originalConnections(on ports: Set<UInt16>) -> Int {
        (try? self.originals(on: ports, SocketDiagnosis()).count) ?? 0
    }

    /// Ends the connections that are open to the original on these ports, at both ends.
    ///
    /// - Returns: how many; nil if this kernel can't, so that each ends with its client's next packet.
    public func endOriginalConnections(on ports: Set<UInt16>) -> Int? {
        var count = 0
        do throws(DiversionError) {
            let diagnosis = try SocketDiagnosis()
            let originals = try self.originals(on: ports, diagnosis)
            self.warnOfSubflows(originals.count(where: \.isSubflow))
            for socket in originals {
                switch try diagnosis.destroy(socket) {
                case .ended: count += 1
                case .gone: break
                case .unsupported: return self.rejectOriginals(on: ports)
                }
            }
        } catch {
            self.configuration.log?.warning("\(error)")
            return self.rejectOriginals(on: ports)
        }
        return count
    }

    /// Only the two endpoints can end a Multipath TCP connection. Other programs can end its subflows only, and the
    /// endpoints aren't told of that.
    private func warnOfSubflows(_ count: Int) {
        guard count > 0 else { return }
        self.configuration.log?.warning(
            """
            connections of Multipath TCP to the original lose their way now, and their programs hear of it only after \
            net.mptcp.close_timeout, 60 s
            """,
            metadata: ["count": "\(count)"]
        )
    }

    private func rejectOriginals(on ports: Set<UInt16>) -> Int? {
        guard self.isTableThere, let rules = self.rules, let nftables = self.nftables else { return 0 }
        do throws(DiversionError) {
            try nftables.run(rules.rejectOriginals(on: ports), "ending connections")
            self.rejected.formUnion(ports)
            return nil
        } catch {
            self.configuration.log?.warning("connections to the original stay open: \(error)")
            return 0
        }
    }

    /// The service's ends of the connections to the original.
    private func originals(
        on ports: Set<UInt16>,
        _ diagnosis: borrowing SocketDiagnosis
    ) throws(DiversionError) -> [SocketDiagnosis.Socket] {
        var result: [SocketDiagnosis.Socket] = []
        for port in ports.sorted() {
            // The agent's own connections: only the agent's ends are marked, so the service's ends are found by them.
            var own: Set<[SocketDiagnosis.End]> = []
            for socket in try diagnosis.sockets(.remote, port) where socket.mark == Self.mark {
                own.insert([socket.remote, socket.local])
            }
            for socket in try diagnosis.sockets(.local, port) {
                let isLoopback = socket.local.isLoopback || socket.remote.isLoopback
                if socket.mark == Self.mark || own.contains([socket.local, socket.remote]) { continue }
                if isLoopback, self.configuration.loopback == .original { continue }
                result.append(socket)
            }
        }
        return result
    }

    /// Closes the listeners and removes the table. If redirected connections are still open, the table stays until the
    /// process ends, which ends them, because the kernel must be able to translate their last packets.
    public func close() {
        self.renewal?.cancel()
        self.removal?.cancel()
        self.diverted = DivertedPorts()
        // The sweeps that are still scheduled are done now.
        let ports = self.flowSweep.finish()
        if !ports.isEmpty { self.forgetFlows(of: ports) }
        self.listening.close()
        if let nftables = self.nftables, self.isTableThere, self.isInUse {
            _ = Unmanaged.passRetained(nftables)
            // Otherwise the policy rule and the route would outlive this process, which ends soon.
            self.answers?.takeDown()
        } else {
            self.removeTable()
        }
        self.isTableThere = false
        self.rules = nil
        self.nftables = nil
    }
    #else
    public func start(
        accept: @escaping (any Channel, _ port: UInt16, _ called: SocketAddress) -> Void,
        take: @escaping (DatagramListener, DatagramListener.Arrival, _ port: UInt16) -> Void = { _, _, _ in }
    ) -> EventLoopFuture<Void> {
        self.eventLoop.makeFailedFuture(DiversionError("Only Linux can redirect. Divert by listen."))
    }
    public func divert(_ ports: DivertedPorts) throws(DiversionError) {}
    public func conflict(on ports: DivertedPorts) -> DiversionError? { nil }
    public var labels: [ServicePort: String] {
        get { [:] }
        set {}
    }
    public var hidesClients: String? { "only Linux can redirect" }
    public func ownSocket(for client: SocketAddress?, calling called: SocketAddress?) -> OwnSocket {
        OwnSocket(from: nil)
    }
    public func originalConnections(on ports: Set<UInt16>) -> Int { 0 }
    public func endOriginalConnections(on ports: Set<UInt16>) -> Int? { 0 }
    public func close() { self.listening.close() }
    #endif
}
