#if os(Linux)
public import NIOCore
import NIOPosix

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// UDP: where a flow's first packet went, the kernel sends all others, for as long as it remembers it.
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

    /// Where a datagram that a listener took was sent to by its client.
    public enum Called: Equatable, Sendable {
        case address(SocketAddress)
        /// The listener itself: nobody has to.
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

    /// Before an answer that comes late: the kernel may have forgotten the flow, and would let the answer leave from the
    /// listener's port. One that was answered once it forgets after 30 s (`nf_conntrack_udp_timeout`).
    ///
    /// - Parameters:
    ///   - called: what the client has sent to, and where that arrived.
    public func keepFlow(of client: SocketAddress, called: SocketAddress, arrival: SocketAddress, port: UInt16) {
        // Once new flows go to the original, this one does, too.
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

    /// The kernel's own, for flows that were answered. The next packet makes it what the kernel has been told.
    private static let keptSeconds: UInt32 = 120

    /// 4 bytes or 16; an IPv4 address of an IPv6 socket has 4.
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

    /// Has the kernel forget the flows of these ports that go where no new one would: at once, and again a little later, since
    /// an answer that was on its way makes it remember a flow anew.
    func moveFlows(of ports: Set<UInt16>) {
        guard !ports.isEmpty, self.rules != nil else { return }
        let all = self.flowSweep.begin(ports, on: self.eventLoop) { [weak self] in self?.forgetFlows(of: $0) }
        // Before the table goes, where it is about to: without it a flow that is translated still would be in the way of the
        // original's answers, which the kernel then refuses to send.
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

/// Which flows go where no new one would.
struct StaleFlows {
    /// Those that are, or aren't any more, redirected since the last change.
    var ports: Set<UInt16>
    var diverted: Set<UInt16>
    var listeners: [UInt16: UInt16]
    var own: LocalAddresses

    func contains(_ entry: ConnectionTracking.Entry) -> Bool {
        let (original, reply) = (entry.original, entry.reply)
        let port = original.destinationPort
        if self.ports.contains(port), self.own.contains(original.destination) {
            if self.diverted.contains(port) {
                // To the original still, or to a sidecar that was killed; what others' rules lead elsewhere is theirs.
                return reply.sourcePort != self.listeners[port] && self.own.contains(reply.source)
            }
            return reply.sourcePort == self.listeners[port]
        }
        // An answer of the original's that came after its flow was forgotten: to the kernel it began a flow.
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

/// When flows are looked for after a change.
struct FlowSweep {
    private var scheduled: [Scheduled<Void>] = []
    private var ports: Set<UInt16> = []
    private var mayTellOnce = true
    /// Not before then is the next one begun at once: those that take long, in a large table, are made less often.
    private var restsUntil: NIODeadline?

    /// † An answer that is later than that is one for which nobody waits.
    private static let again: [TimeAmount] = [.milliseconds(250), .seconds(1), .seconds(3), .seconds(10)]
    private static let pause = TimeAmount.milliseconds(100)
    /// In a large table: a tenth of the loop's time at most then, whatever a workspace asks for. †
    private static let isLong = TimeAmount.milliseconds(100)
    private static let restsFor = 9

    /// From time to time, of these and of those of changes before.
    mutating func begin(
        _ ports: Set<UInt16>,
        on eventLoop: any EventLoop,
        _ sweep: @escaping (Set<UInt16>) -> Void
    ) -> Set<UInt16> {
        self.cancel()
        // Those of a change before may not be done yet.
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

    /// The ports that are still looked at, and no more from now on.
    mutating func finish() -> Set<UInt16> {
        defer { self.cancel() }
        return self.scheduled.isEmpty ? [] : self.ports
    }

    /// Soon again: more were found than are forgotten at once.
    mutating func goOn(on eventLoop: any EventLoop, _ sweep: @escaping (Set<UInt16>) -> Void) {
        let ports = self.ports
        self.scheduled.append(eventLoop.assumeIsolated().scheduleTask(in: Self.pause) { sweep(ports) })
    }

    mutating func cancel() {
        for one in self.scheduled { one.cancel() }
        self.scheduled = []
    }

    /// Once for each change.
    mutating func mayTell() -> Bool {
        defer { self.mayTellOnce = false }
        return self.mayTellOnce
    }
}
#endif
