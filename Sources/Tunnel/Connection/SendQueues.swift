import NIOCore

/// What waits to be written, but for datagrams and PATH_RESPONSE: the streams that have something to send, by what it is, and
/// the connection's own frames.
///
/// The control stream's data is in no queue: it is always written first.
struct SendQueues {
    /// Which queues a stream is in: at most once in each. A part of `StreamState` that only the queues change.
    struct Marks {
        fileprivate(set) var controlFrames: StreamControlFrames = []
        fileprivate var isInControl = false
        fileprivate var isInLost = false
        /// Also true while the stream is blocked.
        fileprivate var isInFresh = false
    }

    /// The connection's own frames.
    private(set) var controlFrames: ControlFrames = []
    private(set) var pingIsPending = false

    private var control = Queue()
    private var lost = Queue()
    private var fresh = Queue()
    /// Streams that have data to send and wait for the connection's credit.
    private var blocked = Queue()

    /// The first entry is beside the others, since mostly there is only one: it then costs no access to the heap.
    private struct Queue {
        private var first: StreamID?
        /// Empty if there is no first.
        private var rest = CircularBuffer<StreamID>()

        var isEmpty: Bool { self.first == nil }
        var count: Int { self.first == nil ? 0 : 1 + self.rest.count }

        mutating func append(_ id: StreamID) { if self.first == nil { self.first = id } else { self.rest.append(id) } }

        mutating func popFirst() -> StreamID? {
            guard let first else { return nil }
            self.first = self.rest.popFirst()
            return first
        }
    }

    var hasControl: Bool { !self.controlFrames.isEmpty || !self.control.isEmpty }
    /// Streams wait for the connection's credit.
    var hasBlocked: Bool { !self.blocked.isEmpty }
    var hasStreams: Bool { !self.lost.isEmpty || !self.fresh.isEmpty }
    var isEmpty: Bool { !self.pingIsPending && !self.hasControl && !self.hasStreams }
    var freshCount: Int { self.fresh.count }
    /// For tests: how many streams are in each queue.
    var counts: [Int] { [self.control.count, self.lost.count, self.fresh.count, self.blocked.count] }

    // MARK: The connection's frames

    mutating func add(_ frames: ControlFrames) { self.controlFrames.formUnion(frames) }

    mutating func remove(_ frames: ControlFrames) { self.controlFrames.subtract(frames) }

    mutating func addPing() { self.pingIsPending = true }

    mutating func removePing() { self.pingIsPending = false }

    // MARK: Streams

    // What is asked for each message is inlined: calls would cost half a percent of all instructions.

    mutating func add(_ frames: StreamControlFrames, of stream: StreamState) {
        stream.queueMarks.controlFrames.formUnion(frames)
        guard !stream.queueMarks.isInControl else { return }
        stream.queueMarks.isInControl = true
        self.control.append(stream.id)
    }

    /// The next stream with control frames, and these frames, which may be none.
    @inline(__always)
    mutating func nextControl(in streams: inout StreamTable) -> (StreamState, StreamControlFrames)? {
        while let id = self.control.popFirst() {
            guard let stream = streams[id] else { continue }
            defer { stream.queueMarks.controlFrames = [] }
            stream.queueMarks.isInControl = false
            return (stream, stream.queueMarks.controlFrames)
        }
        return nil
    }

    /// Adds a stream that has lost data to send.
    mutating func addLost(_ stream: StreamState) {
        guard stream.hasLostToSend, !stream.queueMarks.isInLost, stream.id != .control else { return }
        stream.queueMarks.isInLost = true
        self.lost.append(stream.id)
    }

    @inline(__always)
    mutating func nextLost(in streams: inout StreamTable) -> StreamState? {
        while let id = self.lost.popFirst() {
            guard let stream = streams[id] else { continue }
            stream.queueMarks.isInLost = false
            if stream.hasLostToSend { return stream }
        }
        return nil
    }

    /// Adds a stream that has fresh data to send.
    @inline(__always)
    mutating func addFresh(_ stream: StreamState) {
        guard stream.hasFreshToSend, !stream.queueMarks.isInFresh, stream.id != .control else { return }
        stream.queueMarks.isInFresh = true
        self.fresh.append(stream.id)
    }

    /// The next stream with fresh data, after at most so many turns of the queue, which are counted down. Without credit of the
    /// connection, streams that need it wait until `unblock`.
    @inline(__always)
    mutating func nextFresh(in streams: inout StreamTable, turns: inout Int, hasCredit: Bool) -> StreamState? {
        while turns > 0, let id = self.fresh.popFirst() {
            turns -= 1
            guard let stream = streams[id] else { continue }
            if stream.needsConnectionCredit, !hasCredit {
                self.blocked.append(id)
                continue
            }
            stream.queueMarks.isInFresh = false
            if stream.hasFreshToSend { return stream }
        }
        return nil
    }

    /// MAX_DATA has raised the connection's credit.
    mutating func unblock() { while let id = self.blocked.popFirst() { self.fresh.append(id) } }

    /// The connection has ended, and its streams are gone.
    mutating func removeStreams() {
        self.control = Queue()
        self.lost = Queue()
        self.fresh = Queue()
        self.blocked = Queue()
    }
}
