public import NIOCore
import Tunnel

/// What the other end's answer, the stream's first byte, means for a `BridgedSocket`.
public enum AnswerMeaning {
    /// The bytes pass from now on.
    case open
    /// No server has seen a byte.
    case refused
    /// Not a valid answer.
    case invalid
}

/// What a socket said before the other end answered, and refused it or gave no answer.
public struct EarlyBytes {
    public fileprivate(set) var buffers: [ByteBuffer] = []
    public fileprivate(set) var inputIsClosed = false
    fileprivate(set) var count = 0
}

/// Counts what all sockets that wait for an answer keep, so that a peer that accepts streams but never answers can't fill the
/// memory.
public final class EarlyMemory {
    public fileprivate(set) var used = 0
    fileprivate var hasRoom: Bool { self.used < self.atMost }

    private let atMost: Int

    // †
    public init(atMost: Int = 16 * 1_024 * 1_024) { self.atMost = atMost }
}

/// A `BridgedSocket`'s first state, at the end that waits for an answer.
///
/// What the socket says is sent at once, and kept until the answer, so that another server can get all of it after a refusal.
final class AnswerWait<Access: ConnectionAccess> {
    let means: (UInt8) -> AnswerMeaning
    private let access: Access
    private let stream: StreamID
    private let input: UrgentInput
    private let memory: EarlyMemory
    private(set) var early = EarlyBytes()
    /// False if there was no carrier, or the peer didn't answer in time, before any byte was sent. Bytes that were never sent
    /// can still go to another server.
    private var sendsAtOnce = true
    private(set) var hasSentBytes = false
    /// The stream has room for more.
    var hasRoom = true
    private let timeout: Scheduled<Void>

    /// The maximum for one socket; beyond it nothing is read.
    private static var keptAtMost: Int { 64 * 1_024 }
    private static var patience: TimeAmount { .seconds(10) }

    init(
        _ access: Access,
        _ stream: StreamID,
        input: UrgentInput,
        memory: EarlyMemory,
        on eventLoop: any EventLoop,
        means: @escaping (UInt8) -> AnswerMeaning,
        onTimeout: @escaping () -> Void
    ) {
        self.access = access
        self.stream = stream
        self.input = input
        self.memory = memory
        self.means = means
        self.timeout = eventLoop.assumeIsolated().scheduleTask(in: Self.patience) { onTimeout() }
    }

    func take(_ bytes: ByteBuffer) {
        let offset = UInt64(self.early.count)
        self.early.count += bytes.readableBytes
        // A small read must not keep alive the large buffer that it was read into.
        self.early.buffers.append(bytes.readableBytes < 4_096 ? bytes.compacted : bytes)
        self.memory.used += bytes.readableBytes
        if !self.hasSentBytes, !self.peerAnswersInTime { self.sendsAtOnce = false }
        guard self.sendsAtOnce else { return }
        self.hasSentBytes = true
        self.hasRoom =
            self.access.withConnection { $0.write(bytes, at: offset, of: self.input, to: self.stream) } ?? false
    }

    private var peerAnswersInTime: Bool {
        self.access.withConnection { $0.answersInTime(at: Clock.now()) } ?? false
    }

    var mayRead: Bool {
        self.hasRoom && !self.early.inputIsClosed && self.early.count < Self.keptAtMost && self.memory.hasRoom
    }

    func inputClosed() {
        self.early.inputIsClosed = true
        if self.sendsAtOnce { _ = self.access.withConnection { $0.finish(self.stream) } }
    }

    /// Sends what was held back: there is a carrier again and the peer responds, or it has answered.
    func sendHeld() {
        guard !self.sendsAtOnce else { return }
        self.sendsAtOnce = true
        self.hasSentBytes = !self.early.buffers.isEmpty
        _ = self.access.withConnection { connection in
            var offset: UInt64 = 0
            for bytes in self.early.buffers {
                self.hasRoom = connection.write(bytes, at: offset, of: self.input, to: self.stream)
                offset += UInt64(bytes.readableBytes)
            }
            if self.early.inputIsClosed { connection.finish(self.stream) }
        }
    }

    /// The answer has come, or isn't waited for any longer.
    func end() {
        self.timeout.cancel()
        self.memory.used -= self.early.count
    }
}

extension ByteBuffer {
    /// A copy in a buffer of its own.
    fileprivate var compacted: ByteBuffer {
        var copy = ByteBuffer()
        copy.reserveCapacity(self.readableBytes)
        copy.writeImmutableBuffer(self)
        return copy
    }
}
