import Carriers
import InterceptModel
import NIOCore
import Tunnel

/// Limits of copies.
enum MirrorLimits {
    /// Bytes of one copy that its workspace hasn't acknowledged, or that aren't written yet.
    static let copy = 1_024 * 1_024
    /// The same for all copies of a sidecar together, unless it may have less.
    static let all = 16 * 1_024 * 1_024  // †
    /// What each copy in a link's queue counts for in addition to its bytes, which limits clients that connect and send
    /// nothing, too. †
    static let queued = 1_024
    /// What a stream counts for, beside its bytes. †
    static let stream = 1_024
    /// What is written at once of one copy, and of all copies of a link. †
    static let piece = 64 * 1_024
    static let turn = 128 * 1_024
    /// How long a few bytes wait for more, to go out in the same message: no client waits for a copy. †
    static let gathering = TimeAmount.milliseconds(1)
    /// The longest pause until the link checks again whether its tunnel is idle. †
    static let pauseAtMost = TimeAmount.milliseconds(16)
}

/// The memory for copies, which all mirrors of a sidecar share.
final class CopyMemory {
    fileprivate(set) var used = 0
    /// Has each mirror ask its tunnel again how many bytes are unacknowledged: fewer than when it last asked.
    var onShortage: () -> Void = {}

    /// A mirror may use as much memory as it then leaves free, so a mirror that stands still doesn't take what other mirrors
    /// need.
    fileprivate func hasRoom(own: Int) -> Bool { own <= (self.atMost - (self.used - own)) / 2 }

    private let atMost: Int

    init(atMost: Int = MirrorLimits.all) { self.atMost = atMost }
}

/// The copies for one mirror. They are written to its tunnel only while nothing else waits there, a bounded share in a turn of
/// the loop, so that they delay neither each other nor other streams.
final class MirrorCopies<Access: ConnectionAccess> {
    private let access: Access
    private let eventLoop: any EventLoop
    private let memory: CopyMemory
    private var nextNumber: UInt64 = 0
    private var copies: [UInt64: MirrorCopy<Access>] = [:]
    /// The copies that have something to write, each once.
    private var queue = CircularBuffer<MirrorCopy<Access>>()
    /// The memory kept alive by bytes that aren't written yet, and what the queue counts for.
    private(set) var pending = 0
    /// How many bytes the workspace hadn't acknowledged when the tunnel was last asked; fewer by now.
    private var unacknowledged = 0
    private var next: Scheduled<Void>?
    /// The next write is delayed only so that more bytes share its message.
    private var isGathering = false
    private var pause = MirrorLimits.gathering
    /// Copies that were reset, or not begun, because the workspace or the tunnel couldn't keep up.
    var behind: UInt64 = 0
    private(set) var bytes: UInt64 = 0

    init(_ access: Access, memory: CopyMemory, on eventLoop: any EventLoop) {
        self.access = access
        self.memory = memory
        self.eventLoop = eventLoop
    }

    var count: Int { self.copies.count }

    func withConnection<Result>(_ body: (inout Connection) -> Result) -> Result? { self.access.withConnection(body) }

    /// Begins a copy. Its stream is opened when its first bytes are written.
    ///
    /// - Parameters:
    ///   - header: what the stream begins with.
    ///   - port: the service's, to which the client sends.
    func begin(_ header: ByteBuffer, of port: ServicePort) -> MirrorCopy<Access> {
        let copy = MirrorCopy(header, of: port, number: self.nextNumber, for: self)
        self.nextNumber += 1
        self.copies[copy.number] = copy
        self.keep(copy.pendingCapacity)
        if self.hasRoom { self.enqueue(copy) } else { copy.isBehind() }
        return copy
    }

    /// Ends all copies.
    func giveUp(_ code: StreamErrorCode) {
        for copy in Array(self.copies.values) { copy.giveUp(code) }
        while self.dequeue() != nil {}
    }

    /// Ends the copies of ports for which that is so.
    func giveUp(_ code: StreamErrorCode, where isOver: (ServicePort) -> Bool) {
        for copy in self.copies.values.filter({ isOver($0.port) }) { copy.giveUp(code) }
    }

    /// The workspace can't be reached.
    func areBehind() {
        for copy in Array(self.copies.values) { copy.isBehind() }
        while self.dequeue() != nil {}
    }

    func isOver(_ copy: MirrorCopy<Access>) {
        guard self.copies.removeValue(forKey: copy.number) != nil else { return }
        if let stream = copy.stream { self.access.release(stream) }
    }

    // MARK: Memory

    func keep(_ size: Int) {
        self.pending += size
        self.memory.used += size
    }

    var hasRoom: Bool {
        if self.memory.hasRoom(own: self.pending + self.unacknowledged) { return true }
        self.memory.onShortage()
        return self.memory.hasRoom(own: self.pending + self.unacknowledged)
    }

    /// Asks how much is unacknowledged.
    func look() { self.note(self.access.withConnection { Self.held(by: $0) } ?? 0) }

    /// A stream counts until both of its directions are over: the workspace may never end its own.
    private static func held(by connection: borrowing Connection) -> Int {
        connection.unacknowledgedBytes + connection.openStreamCount * MirrorLimits.stream
    }

    private func note(_ unacknowledged: Int) {
        self.memory.used += unacknowledged - self.unacknowledged
        self.unacknowledged = unacknowledged
    }

    // MARK: Writing

    func enqueue(_ copy: MirrorCopy<Access>) {
        if !copy.isQueued { self.append(copy) }
        let isMuch = self.pending >= MirrorLimits.piece
        if self.next == nil, !isMuch {
            self.isGathering = true
            self.schedule(in: MirrorLimits.gathering)
        } else if isMuch, self.next == nil || self.isGathering {
            self.next?.cancel()
            self.writeInNextTurn()
        }
    }

    private func writeInNextTurn() {
        self.isGathering = false
        self.next = self.eventLoop.inNextTurn { [weak self] in
            self?.next = nil
            self?.write()
        }
    }

    private func append(_ copy: MirrorCopy<Access>) {
        copy.isQueued = true
        self.queue.append(copy)
        self.keep(MirrorLimits.queued)
    }

    private func schedule(in delay: TimeAmount) {
        self.next = self.eventLoop.assumeIsolated().scheduleTask(in: delay) { [weak self] in
            self?.next = nil
            self?.write()
        }
    }

    private func dequeue() -> MirrorCopy<Access>? {
        guard let copy = self.queue.popFirst() else { return nil }
        copy.isQueued = false
        self.keep(-MirrorLimits.queued)
        return copy
    }

    /// Writes a share, if nothing else waits.
    func write() {
        guard !self.queue.isEmpty else { return }
        self.next?.cancel()
        self.next = nil
        self.isGathering = false
        var outcome = Outcome()
        guard self.access.withConnection({ self.write(to: &$0, &outcome) }) != nil else { return }
        for copy in outcome.opened where !copy.isOver {
            if let stream = copy.stream { self.access.owners.bind(stream, to: copy) }
        }
        for copy in outcome.refused { copy.isBehind() }
        for (copy, stream) in outcome.written {
            self.copies[copy.number] = nil
            self.access.release(stream)
        }
        guard !self.queue.isEmpty else {
            self.pause = MirrorLimits.gathering
            return
        }
        if outcome.bytes > 0 {
            self.pause = MirrorLimits.gathering
            self.writeInNextTurn()
        } else {
            self.schedule(in: self.pause)
            self.pause = min(self.pause * 2, MirrorLimits.pauseAtMost)
        }
    }

    private struct Outcome {
        var bytes = 0
        var opened: [MirrorCopy<Access>] = []
        var refused: [MirrorCopy<Access>] = []
        var written: [(MirrorCopy<Access>, StreamID)] = []
    }

    private func write(to connection: inout Connection, _ outcome: inout Outcome) {
        if connection.isIdle {
            var left = MirrorLimits.turn
            var turns = self.queue.count
            while left > 0, turns > 0, let copy = self.dequeue() {
                turns -= 1
                guard !copy.isOver else { continue }
                let (isOpened, before) = (copy.stream != nil, copy.pendingCapacity)
                let written = copy.write(to: &connection, atMost: min(left, MirrorLimits.piece))
                self.keep(copy.pendingCapacity - before)
                if !isOpened, copy.stream != nil { outcome.opened.append(copy) }
                // What a message or a stream costs by itself counts, too.
                left -= MirrorLimits.queued
                left -= written.count
                outcome.bytes += written.count
                switch written.next {
                case .nothing, .wait: break
                case .goOn: self.append(copy)
                case .noStream: outcome.refused.append(copy)
                case .release(let stream): outcome.written.append((copy, stream))
                }
            }
            self.bytes += UInt64(outcome.bytes)
        }
        self.note(Self.held(by: connection))
    }

    /// The connection is over, and all copies with it.
    func close() {
        self.next?.cancel()
        self.next = nil
        self.giveUp(.tcpReset)
        self.note(0)
    }
}
