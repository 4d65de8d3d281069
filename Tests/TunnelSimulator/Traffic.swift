import NIOCore
import Tunnel

/// The application at one end of one connection: it writes, reads and gives up as each stream's plan says, and compares every
/// byte.
final class Traffic {
    private final class Stream {
        let id: StreamID
        let plan: StreamPlan
        let random: SeededRandom
        let sending: Ledger.Direction
        let receiving: Ledger.Direction
        let toSend: StreamPlan.Direction
        let toReceive: StreamPlan.Direction
        let isEcho: Bool

        var nextWriteAt: Int64 = 0
        var waitsForRoom = false
        var sendingIsDone = false
        var nextReadAt: Int64?
        var receivingIsDone = false
        var releaseAt: Int64?
        /// Bytes read and not yet written back.
        var toEcho = ByteBuffer()

        init(
            _ id: StreamID,
            plan: StreamPlan,
            role: Role,
            random: SeededRandom,
            sending: Ledger.Direction,
            receiving: Ledger.Direction
        ) {
            self.id = id
            self.plan = plan
            self.random = random
            self.sending = sending
            self.receiving = receiving
            self.toSend = role == .responder ? plan.down : plan.up
            self.toReceive = role == .responder ? plan.up : plan.down
            self.isEcho = plan.isEcho && role == .initiator
        }
    }

    let connection: UInt64
    private let role: Role
    private unowned let world: World
    private var streams: [StreamID: Stream] = [:]
    /// In the order in which they were opened, so that a seed always gives the same course.
    private var order: [StreamID] = []
    /// How many streams the responder still has to open.
    var toOpen: Int
    private var nextOpenAt: Int64 = 0
    /// How many times in a row there was no credit for another stream.
    private var refusals = 0
    private let random: SeededRandom
    private(set) var completed = 0
    private let datagrams: DatagramTraffic

    init(_ connection: UInt64, role: Role, toOpen: Int, world: World) {
        self.connection = connection
        self.role = role
        self.world = world
        self.toOpen = toOpen
        self.random = SeededRandom(seed: world.seed ^ connection ^ (role == .initiator ? 1 : 2))
        self.nextOpenAt = world.now
        let peer: Role = role == .initiator ? .responder : .initiator
        self.datagrams = DatagramTraffic(
            sending: world.ledger.datagrams(connection, from: role),
            receiving: world.ledger.datagrams(connection, from: peer),
            random: self.random.fork(),
            at: world.now
        )
    }

    private func begin(_ id: StreamID) {
        let seed = SeededRandom.mix(self.world.seed ^ self.connection &+ id.rawValue &* 0x2545_f491_4f6c_dd1d)
        let plan = id == .control ? StreamPlan.control : StreamPlan(SeededRandom(seed: seed), self.world.limits)
        let ledger = self.world.ledger
        let peer: Role = self.role == .initiator ? .responder : .initiator
        func direction(_ sender: Role) -> Ledger.Direction {
            let isUp = sender == .initiator && !plan.isEcho
            return ledger.direction(self.connection, id, from: sender, pattern: isUp ? seed &+ 7_919 : seed)
        }
        let stream = Stream(
            id,
            plan: plan,
            role: self.role,
            random: SeededRandom(seed: seed ^ (self.role == .initiator ? 3 : 4)),
            sending: direction(self.role),
            receiving: direction(peer)
        )
        stream.nextWriteAt = self.world.now
        self.streams[id] = stream
        self.order.append(id)
    }

    /// Opens stream 0; only the initiator does that.
    func openControl(_ connection: inout Connection) throws(SimulationFailure) {
        guard connection.openStream() == .control else { throw self.world.failure("stream 0 was not to be had") }
        self.begin(.control)
    }

    func handle(_ event: ConnectionEvent, _ connection: inout Connection) throws(SimulationFailure) {
        switch event {
        case .streamOpened(let id):
            guard self.streams[id] == nil else { throw self.world.failure("\(id) was opened twice") }
            self.begin(id)
        case .readable(let id):
            guard let stream = self.streams[id] else { return }
            if stream.nextReadAt == nil { stream.nextReadAt = self.world.now }
        case .writable(let id):
            guard let stream = self.streams[id] else { return }
            stream.waitsForRoom = false
        case .reset(let id, let code):
            guard let stream = self.streams[id], !stream.receivingIsDone else { return }
            guard stream.receiving.resetCode == code else {
                throw self.world.failure("\(id) was reset with \(code), which nobody did")
            }
            if code == .tcpReset { try self.readRest(stream, &connection) }
            stream.receivingIsDone = true
            stream.receiving.outcome = .reset
            if stream.isEcho { self.reset(stream, code, &connection) }
        case .stopped(let id, let code):
            guard let stream = self.streams[id] else { return }
            guard stream.sending.stopCode == code else {
                throw self.world.failure("\(id) was stopped with \(code), which nobody did")
            }
            stream.sendingIsDone = true
            stream.sending.resetCode = code
        case .datagramsReadable: try self.datagrams.receive(&connection, self.world)
        case .datagramAcknowledged(let id): try self.datagrams.acknowledged(id, self.world)
        case .presence, .urgentLeftOut, .ended: break
        }
    }

    // MARK: Time

    var nextWake: Int64? {
        var next: Int64?
        func consider(_ time: Int64) { next = min(next ?? time, time) }
        if self.toOpen > 0, self.role == .responder { consider(self.nextOpenAt) }
        if self.sendsDatagrams { consider(self.datagrams.nextAt) }
        for stream in self.streams.values {
            if !stream.sendingIsDone, !stream.waitsForRoom, self.hasToWrite(stream) { consider(stream.nextWriteAt) }
            if let at = stream.nextReadAt { consider(at) }
            if let at = stream.releaseAt { consider(at) }
        }
        return next
    }

    private var sendsDatagrams: Bool { !self.world.isSettling && !self.datagrams.isDone }

    private func hasToWrite(_ stream: Stream) -> Bool {
        if stream.id == .control { return !self.world.isSettling }
        return !stream.isEcho || stream.toEcho.readableBytes > 0
    }

    func wake(_ connection: inout Connection) throws(SimulationFailure) {
        let now = self.world.now
        if connection.statistics.resetsForced > 0 { self.world.ledger.withForcedResets.insert(self.connection) }
        if self.sendsDatagrams, self.datagrams.nextAt <= now { self.datagrams.send(&connection, at: now) }
        if self.toOpen > 0, self.role == .responder, self.nextOpenAt <= now {
            if let id = connection.openStream() {
                self.begin(id)
                self.toOpen -= 1
                self.refusals = 0
            } else {
                self.refusals = min(self.refusals + 1, 16)
            }
            let pause = self.random.between(1_000_000...self.world.openPause) << Int64(self.refusals)
            self.nextOpenAt = now + min(pause, 60_000_000_000)
        }
        for id in self.order {
            guard let stream = self.streams[id] else { continue }
            if let at = stream.nextReadAt, at <= now { try self.read(stream, &connection) }
            if !stream.sendingIsDone, !stream.waitsForRoom, self.hasToWrite(stream), stream.nextWriteAt <= now {
                self.write(stream, &connection)
            }
            self.releaseIfDone(stream, &connection)
        }
        if self.order.count > 2 * self.streams.count + 16 { self.order.removeAll { self.streams[$0] == nil } }
    }

    // MARK: Writing

    private func write(_ stream: Stream, _ connection: inout Connection) {
        if stream.isEcho { return self.echo(stream, &connection) }
        let plan = stream.toSend
        let pause = stream.random.between(plan.writePause)
        repeat {
            let written = Int(stream.sending.written)
            if let at = plan.resetsAt, written >= at {
                return self.reset(stream, self.drawCode(stream), &connection)
            }
            let until = min(plan.size, plan.resetsAt ?? plan.size)
            let count = min(until - written, stream.random.between(plan.writeSize))
            if count > 0 {
                var bytes = stream.sending.pattern.bytes(at: stream.sending.written, count: count)
                if self.mayBeUrgent(stream), let byte: UInt8 = bytes.readInteger() {
                    stream.sending.urgent.insert(stream.sending.written)
                    connection.writeUrgent(byte, to: stream.id)
                }
                stream.sending.written += UInt64(count)
                stream.waitsForRoom = !connection.write(bytes, to: stream.id)
            }
            if stream.sending.written == UInt64(plan.size), plan.resetsAt == nil {
                connection.finish(stream.id)
                stream.sending.finished = true
                stream.sendingIsDone = true
                return
            }
        } while !stream.waitsForRoom && pause == 0
        stream.nextWriteAt = self.world.now + pause
    }

    /// At most eight urgent bytes are unread at a time, so that none loses its mark.
    private func mayBeUrgent(_ stream: Stream) -> Bool {
        stream.id != .control && stream.random.isOne(in: 8) && stream.sending.urgent.count < 8
    }

    private func echo(_ stream: Stream, _ connection: inout Connection) {
        guard stream.toEcho.readableBytes > 0 else { return }
        stream.sending.written += UInt64(stream.toEcho.readableBytes)
        stream.waitsForRoom = !connection.write(stream.toEcho, to: stream.id)
        stream.toEcho = ByteBuffer()
        if stream.nextReadAt == nil { stream.nextReadAt = self.world.now }
    }

    /// Half of the codes are `tcpReset`, with which all that was written before still arrives.
    private func drawCode(_ stream: Stream) -> StreamErrorCode {
        let drawn = stream.random.next() >> 2
        return self.world.limits.resetsAsTCP && drawn % 2 == 1 ? .tcpReset : StreamErrorCode(rawValue: drawn)
    }

    private func reset(_ stream: Stream, _ code: StreamErrorCode, _ connection: inout Connection) {
        guard !stream.sendingIsDone else { return }
        connection.reset(stream.id, code)
        stream.sending.resetCode = code
        stream.sendingIsDone = true
    }

    // MARK: Reading

    private func read(_ stream: Stream, _ connection: inout Connection) throws(SimulationFailure) {
        stream.nextReadAt = nil
        let plan = stream.toReceive
        var left = plan.readSize
        while !stream.receivingIsDone, left > 0 {
            // An echo reads no more before it has written back what it has.
            if stream.isEcho, stream.toEcho.readableBytes > 0 { return }
            if let at = plan.stopsAt, stream.receiving.read >= UInt64(at) { return self.stop(stream, &connection) }
            let isUrgent = connection.urgentIsNext(stream.id)
            switch connection.read(stream.id, atMost: left) {
            case .bytes(let bytes):
                try self.compareUrgent(bytes, isUrgent, stream)
                left -= bytes.readableBytes
                try self.compare(bytes, stream)
                if stream.isEcho, !stream.sendingIsDone { stream.toEcho = bytes }
            case .end:
                guard stream.receiving.finished, stream.receiving.read == stream.receiving.written else {
                    throw self.world.failure("\(stream.id) ended after \(stream.receiving.read) bytes")
                }
                stream.receivingIsDone = true
                stream.receiving.outcome = .ended
                if stream.isEcho, !stream.sendingIsDone {
                    connection.finish(stream.id)
                    stream.sending.finished = true
                    stream.sendingIsDone = true
                }
            case .nothing: return
            }
        }
        if !stream.receivingIsDone { stream.nextReadAt = self.world.now + stream.random.between(plan.readPause) }
    }

    /// Nothing that was written before a TCP reset may be missing, unless the other end gave up waiting for its
    /// acknowledgement.
    private func readRest(_ stream: Stream, _ connection: inout Connection) throws(SimulationFailure) {
        while true {
            let isUrgent = connection.urgentIsNext(stream.id)
            guard case .bytes(let bytes) = connection.read(stream.id) else { break }
            try self.compareUrgent(bytes, isUrgent, stream)
            try self.compare(bytes, stream)
        }
        let isWhole = stream.receiving.read == stream.receiving.written
        guard isWhole || self.world.ledger.withForcedResets.contains(self.connection) else {
            throw self.world.failure("\(stream.id) was reset after \(stream.receiving.read) bytes")
        }
    }

    private func compare(_ bytes: ByteBuffer, _ stream: Stream) throws(SimulationFailure) {
        let direction = stream.receiving
        guard bytes.readableBytes > 0 else { throw self.world.failure("\(stream.id) gave no bytes") }
        guard direction.pattern.matches(bytes, at: direction.read) else {
            throw self.world.failure("\(stream.id) has other bytes at \(direction.read)")
        }
        direction.read += UInt64(bytes.readableBytes)
        guard direction.read <= direction.written else {
            throw self.world.failure("\(stream.id) gave bytes that nobody wrote")
        }
    }

    /// Each urgent byte must be reported as urgent, and come alone; no other byte may.
    private func compareUrgent(_ bytes: ByteBuffer, _ isUrgent: Bool, _ stream: Stream) throws(SimulationFailure) {
        let direction = stream.receiving
        if isUrgent {
            guard bytes.readableBytes == 1, direction.urgent.remove(direction.read) != nil else {
                throw self.world.failure("\(stream.id) has an urgent byte at \(direction.read) that nobody wrote")
            }
        } else if !direction.urgent.isEmpty {
            let range = direction.read..<direction.read + UInt64(bytes.readableBytes)
            guard !direction.urgent.contains(where: range.contains) else {
                throw self.world.failure("\(stream.id) gave an urgent byte after \(direction.read) as another")
            }
        }
    }

    private func stop(_ stream: Stream, _ connection: inout Connection) {
        let code = self.drawCode(stream)
        stream.receiving.stopCode = code
        connection.stopSending(stream.id, code)
        stream.receivingIsDone = true
        stream.receiving.outcome = .stopped
    }

    // MARK: The end

    private func releaseIfDone(_ stream: Stream, _ connection: inout Connection) {
        guard stream.sendingIsDone, stream.receivingIsDone else { return }
        let at = stream.releaseAt ?? self.world.now + stream.plan.releasePause
        stream.releaseAt = at
        guard at <= self.world.now else { return }
        connection.release(stream.id)
        self.streams[stream.id] = nil
        self.completed += 1
    }

    /// Whether this end has done everything that was planned.
    var isComplete: Bool {
        (self.role == .initiator || self.toOpen == 0) && self.streams.keys.allSatisfy { $0 == .control }
    }

    /// What is unfinished, for a failure's text.
    var unfinished: String {
        let open = self.order.compactMap { id -> String? in
            guard let stream = self.streams[id], id != .control else { return nil }
            let sent =
                "\(stream.sending.written)\(stream.sendingIsDone ? " done" : stream.waitsForRoom ? " waits" : "")"
            let got = "\(stream.receiving.read)\(stream.receivingIsDone ? " done" : "")"
            return "\(id.rawValue): wrote \(sent), read \(got)"
        }
        return "\(self.toOpen) to open; " + open.joined(separator: "; ")
    }
}
