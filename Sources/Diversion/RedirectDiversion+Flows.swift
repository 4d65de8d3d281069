#if os(Linux)
import Libc
public import NIOCore
import NIOPosix

/// UDP: the kernel sends all packets of a flow where the first went, for as long as it remembers the flow.
extension RedirectDiversion {
    func listenForDatagrams(
        _ take: @escaping (DatagramListener, DatagramListener.Arrival) -> Void
    ) -> EventLoopFuture<UInt16> {
        do throws(DiversionError) {
            let socket = try DiversionSocket.openForDatagrams()
            return self.listening.listenForDatagrams(on: .socket(socket), take: take).flatMapThrowing { address in
                guard let port = address?.port, let number = UInt16(exactly: port) else {
                    throw DiversionError("A listener for redirected datagrams has no port.")
                }
                return number
            }
        } catch {
            return self.eventLoop.makeFailedFuture(error)
        }
    }

    /// The address that a client sent a received datagram to.
    public enum Called: Equatable, Sendable {
        case address(SocketAddress)
        /// The listener itself, which clients must not use directly.
        case listener
        /// The kernel doesn't tell.
        case unknown
    }

    public func called(by client: SocketAddress, taking arrival: SocketAddress?, port: UInt16) -> Called {
        guard let listener = self.rules?.datagramListeners[port], let arrival else { return .unknown }
        let reply = ConnectionTracking.Tuple(
            source: Self.address(arrival),
            destination: Self.address(client),
            sourcePort: listener,
            destinationPort: UInt16(clamping: client.port ?? 0)
        )
        guard reply.source.count == reply.destination.count, !reply.source.isEmpty else { return .unknown }
        do throws(DiversionError) {
            guard let entry = try ConnectionTracking().entry(answering: reply),
                entry.original.destinationPort != listener
            else { return .listener }
            var packed = ByteBuffer()
            packed.writeBytes(entry.original.destination)
            let address = try? SocketAddress(packedIPAddress: packed, port: Int(entry.original.destinationPort))
            return address.map { .address($0.scoped(toInterface: arrival.scope)) } ?? .unknown
        } catch {
            return .unknown
        }
    }

    /// Called before a late answer: the kernel may have forgotten the flow, and would send the answer from the listener's
    /// port. It forgets a flow after 30 s (`nf_conntrack_udp_timeout`), unless it was answered more than once.
    ///
    /// - Parameters:
    ///   - called: the address that the client sent to.
    ///   - arrival: the address of this machine where its datagram arrived.
    public func keepFlow(of client: SocketAddress, called: SocketAddress, arrival: SocketAddress, port: UInt16) {
        // If the port isn't diverted any more, this flow should move to the original, too.
        guard self.diverted.udp.contains(port), let listener = self.rules?.datagramListeners[port] else { return }
        let address = Self.address(arrival)
        let original = ConnectionTracking.Tuple(
            source: Self.address(client),
            destination: Self.address(called),
            sourcePort: UInt16(clamping: client.port ?? 0),
            destinationPort: UInt16(clamping: called.port ?? 0)
        )
        let addresses = [original.source, original.destination, address]
        guard !address.isEmpty, addresses.allSatisfy({ $0.count == address.count }) else { return }
        do throws(DiversionError) {
            try ConnectionTracking().keep(original, to: address, listener, seconds: Self.keptSeconds)
        } catch {
            self.configuration.log?.debug("\(error) An answer that came late may not reach its client.")
        }
    }

    /// The kernel's default for answered flows. With the next packet the configured time applies.
    private static let keptSeconds: UInt32 = 120

    /// The agent's own flow to the original, from a socket that has the client's address.
    public struct OwnFlow {
        public var from: SocketAddress
        public var to: SocketAddress
        /// How long the kernel is to remember it from now on.
        public var time: TimeAmount

        public init(from: SocketAddress, to: SocketAddress, time: TimeAmount) {
            self.from = from
            self.to = to
            self.time = time
        }
    }

    /// Has the kernel remember these flows for longer: what answers a flow that it has forgotten leaves for the client's machine,
    /// since only answers to tracked flows are brought back.
    public func keepOwn(_ flows: [OwnFlow]) {
        do throws(DiversionError) {
            let tracking = try ConnectionTracking()
            for flow in flows {
                let tuple = ConnectionTracking.Tuple(
                    source: Self.address(flow.from),
                    destination: Self.address(flow.to),
                    sourcePort: UInt16(clamping: flow.from.port ?? 0),
                    destinationPort: UInt16(clamping: flow.to.port ?? 0)
                )
                guard !tuple.source.isEmpty, tuple.source.count == tuple.destination.count else { continue }
                let seconds = UInt32(clamping: flow.time.nanoseconds / 1_000_000_000)
                _ = try tracking.lengthen(tuple, inZone: RedirectRules.zone, seconds: seconds)
            }
        } catch {
            self.configuration.log?.debug(
                "\(error) An answer of the original that comes late may not reach its client."
            )
        }
    }

    /// 4 bytes or 16; an IPv4-mapped address has 4.
    static func address(_ address: SocketAddress) -> [UInt8] {
        switch address {
        case .v4(let address): return withUnsafeBytes(of: address.address.sin_addr) { Array($0) }
        case .v6(let address):
            let bytes = withUnsafeBytes(of: address.address.sin6_addr) { Array($0) }
            return bytes.starts(with: SocketDiagnosis.End.mappedPrefix) ? Array(bytes.suffix(4)) : bytes
        case .unixDomainSocket: return []
        }
    }

    // MARK: Moving flows

    /// Has the kernel forget the flows of these ports that go elsewhere than a new flow would. This is done at once and
    /// again later, since an answer that was on its way makes the kernel remember the flow again.
    func moveFlows(of ports: Set<UInt16>) {
        guard !ports.isEmpty, self.rules != nil else { return }
        let all = self.flowSweep.begin(ports, on: self.eventLoop) { [weak self] in self?.forgetFlows(of: $0) }
        // Done before the table may be removed: without it, the kernel would refuse to send the original's answers for
        // flows that are still translated.
        if self.flowSweep.mayBegin(at: .now()) { self.forgetFlows(of: all) }
    }

    func forgetFlows(of ports: Set<UInt16>) {
        guard let rules = self.rules else { return }
        let stale = StaleFlows(
            ports: ports,
            diverted: self.diverted.udp,
            listeners: rules.datagramListeners,
            own: LocalAddresses()
        )
        let start = NIODeadline.now()
        defer { self.flowSweep.took(from: start, to: .now()) }
        do throws(DiversionError) {
            let (count, mayBeMore) = try ConnectionTracking().forget(where: stale.contains)
            if mayBeMore, count > 0 {
                self.flowSweep.goOn(on: self.eventLoop) { [weak self] in self?.forgetFlows(of: $0) }
            }
            guard count > 0 else { return }
            self.configuration.log?.debug("flows of UDP clients are moved", metadata: ["count": "\(count)"])
        } catch {
            guard self.flowSweep.mayTell() else { return }
            let what = "clients that keep sending from one port may stay where they are for up to three minutes"
            self.configuration.log?.warning("\(error) So \(what).")
        }
    }
}

/// Selects the flows that go elsewhere than a new flow would.
struct StaleFlows {
    /// The ports whose redirection changed.
    var ports: Set<UInt16>
    var diverted: Set<UInt16>
    var listeners: [UInt16: UInt16]
    var own: LocalAddresses

    func contains(_ entry: ConnectionTracking.Entry) -> Bool {
        // The agent's own flow to the original.
        guard !entry.isInOwnZone else { return false }
        let (original, reply) = (entry.original, entry.reply)
        let port = original.destinationPort
        if self.ports.contains(port), self.own.contains(original.destination) {
            if self.diverted.contains(port) {
                // Still to the original, or to a sidecar that was killed. Flows that other programs' rules translate
                // elsewhere are left alone.
                return reply.sourcePort != self.listeners[port] && self.own.contains(reply.source)
            }
            return reply.sourcePort == self.listeners[port]
        }
        // An answer of the original after its flow was forgotten: to the kernel it began a new flow.
        return self.ports.contains(original.sourcePort) && self.diverted.contains(original.sourcePort)
            && self.own.contains(original.source)
    }
}

/// This network namespace's addresses.
struct LocalAddresses {
    private let addresses: Set<[UInt8]>

    init(_ addresses: Set<[UInt8]>) { self.addresses = addresses }

    init() {
        let devices = (try? System.enumerateDevices()) ?? []
        self.addresses = Set(devices.compactMap { $0.address.map(RedirectDiversion.address) })
    }

    func contains(_ address: [UInt8]) -> Bool {
        (address.count == 4 && address.first == 127) || self.addresses.contains(address)
    }
}

/// Schedules the sweeps for stale flows after a change.
struct FlowSweep {
    private var scheduled: [Scheduled<Void>] = []
    private var ports: Set<UInt16> = []
    private var mayTellOnce = true
    /// Until then no sweep is made at once: long ones, in a large table, are made less often.
    private var restsUntil: NIODeadline?

    /// † Later answers are unlikely to be awaited still.
    private static let again: [TimeAmount] = [.milliseconds(250), .seconds(1), .seconds(3), .seconds(10)]
    private static let pause = TimeAmount.milliseconds(100)
    /// After a sweep this long (in a large table), the next ones rest, so that they take at most a tenth of the loop's
    /// time, whatever workspaces ask for. †
    private static let isLong = TimeAmount.milliseconds(100)
    private static let restsFor = 9

    /// Schedules repeated sweeps for these ports and for those of earlier changes.
    mutating func begin(
        _ ports: Set<UInt16>,
        on eventLoop: any EventLoop,
        _ sweep: @escaping (Set<UInt16>) -> Void
    ) -> Set<UInt16> {
        self.cancel()
        // The sweeps for earlier changes may not be done yet.
        self.ports.formUnion(ports)
        self.mayTellOnce = true
        let all = self.ports
        self.scheduled = Self.again.map { delay in
            eventLoop.assumeIsolated().scheduleTask(in: delay) { sweep(all) }
        }
        return all
    }

    func mayBegin(at now: NIODeadline) -> Bool { self.restsUntil.map { now >= $0 } ?? true }

    mutating func took(from start: NIODeadline, to end: NIODeadline) {
        let took = end - start
        self.restsUntil = took < Self.isLong ? nil : end + took * Self.restsFor
    }

    /// Ends the sweeps, and returns the ports that still had some scheduled.
    mutating func finish() -> Set<UInt16> {
        defer { self.cancel() }
        return self.scheduled.isEmpty ? [] : self.ports
    }

    /// Schedules another sweep soon: more flows were found than are forgotten at once.
    mutating func goOn(on eventLoop: any EventLoop, _ sweep: @escaping (Set<UInt16>) -> Void) {
        let ports = self.ports
        self.scheduled.append(eventLoop.assumeIsolated().scheduleTask(in: Self.pause) { sweep(ports) })
    }

    mutating func cancel() {
        for one in self.scheduled { one.cancel() }
        self.scheduled = []
    }

    /// True once for each change.
    mutating func mayTell() -> Bool {
        defer { self.mayTellOnce = false }
        return self.mayTellOnce
    }
}
#endif
