import NIOCore

/// Every number of the protocol that isn't a field's width, with its source.
///
/// "PROTOCOL" is docs/PROTOCOL.md. Values that it marks as judgement have a † here too.
enum Constants {
    /// Mixed into the handshake by both sides first: a peer with another version or protocol fails at once.
    static let prologue: StaticString = "kl-tunnel v1"

    // MARK: Sizes (PROTOCOL, outer messages)

    static let initiationSizes = 256...1_200
    static let responseSizeAtLeast = 92
    static let cookieReplySize = 64
    static let dataHeaderSize = 16
    static let tagSize = 16
    static let dataOverhead = dataHeaderSize + tagSize
    static let defaultMaxMessageSize = 16_416
    static let maxMessageSizes = 1_280...65_552
    /// Frames are padded to a multiple of this, as WireGuard pads packets: the length of a message tells less.
    static let paddingUnit = 16

    // MARK: Sessions (WireGuard's paper, §6.1, and PROTOCOL, sessions)

    static let rekeyAfterTime = TimeAmount.seconds(120)
    static let rekeyAfterMessages: UInt64 = 1 << 60
    static let rejectAfterTime = TimeAmount.seconds(180)
    static let greatestCounter: UInt64 = (1 << 62) - 1
    /// RFC 9001 §6.6: the integrity limit of ChaCha20-Poly1305.
    static let failedOpensLimit: UInt64 = 1 << 36
    static let sessionsKept = 4  // †
    static let unconfirmedSessionsKept = 4  // † a key
    static let unconfirmedLifetime = TimeAmount.seconds(10)  // †
    static let handshakesInFlight = 4
    static let revokedLifetime = TimeAmount.seconds(1)
    static let cookieLifetime = TimeAmount.seconds(120)
    static let retrySchedule: [TimeAmount] = [.seconds(1), .seconds(2), .seconds(4)]
    static let retryInterval = TimeAmount.seconds(5)
    static let retryJitter = TimeAmount.milliseconds(333)
    static let retryPatience = TimeAmount.seconds(90)
    static let retryIntervalLater = TimeAmount.seconds(15)  // †
    /// A responder closes a byte stream after 5 s without a valid initiation. An initiator therefore gives up a stream that
    /// was neither answered nor closed after twice as long. †
    static let answerPatience = TimeAmount.seconds(10)

    // MARK: A responder's caps (PROTOCOL, silence)

    static let initiationsPerSecond = 50
    /// Initiations with a right mac1 that are opened in a second: 0.11 ms of Curve25519 work each, so at most a tenth of a
    /// core. †
    static let handshakeBudgetPerSecond = 1_000
    /// How byte streams get this budget: 100 at once, then one each millisecond. Initiations that wait are opened five at a
    /// time. †
    static let handshakesAtOnce = 100
    static let initiationsInATurn = 5
    static let waitingCarriers = 64  // †
    /// Initiations opened on one byte stream: three in all while it is a stranger's, any number once it is a known key's but
    /// carries no connection yet, at least 20 ms apart in both cases. †
    static let openingsPerCarrier = 3
    static let openingInterval = TimeAmount.milliseconds(20)
    /// Byte streams of one connection. An initiator closes those that it leaves; otherwise the responder closes the oldest
    /// idle one. †
    static let carriersPerConnection = 8
    static let silenceBeforeClose = TimeAmount.seconds(5)

    // MARK: Recovery (RFC 9002, appendix A.2) and acknowledgement

    static let ackDelayExponent: UInt64 = 3
    static let maxAckDelay = TimeAmount.milliseconds(25)
    static let initialRoundTripTime = TimeAmount.milliseconds(333)
    static let granularity = TimeAmount.milliseconds(1)
    static let bytesBeforeAck = 128 * 1_024  // †
    /// RFC 9000 §13.2.2: on datagrams every second ack-eliciting message is acknowledged at once.
    static let messagesBeforeAck = 2
    static let acksAloneAtMost = 32  // †
    static let packetThreshold: UInt64 = 3
    /// RFC 9002 §6.2.4.
    static let probesAfterTimeout = 2
    static let persistentCongestionThreshold: Int64 = 3
    /// After this many probe timeouts without an acknowledgement, and not before this time, datagrams count as not getting
    /// through. †
    static let timeoutsBeforeDark = 3
    static let darkNoSooner = TimeAmount.milliseconds(500)
    /// Datagrams that stop getting through within this time after they were chosen have lapsed. From the second lapse in a
    /// row on, the initiator pauses before it tries them again: a network that lets only handshakes through must not move the
    /// connection back and forth. †
    static let lapseWithin = TimeAmount.seconds(30)
    static let lapsePauses: [TimeAmount] = [.zero, .seconds(5), .seconds(15), .seconds(60), .seconds(300)]
    /// Numbers of messages declared lost that are remembered, in case the messages were only late. †
    static let lostNumbersKept = 4_096
    /// About one message number in this many is skipped, to detect acknowledgements of messages that were never sent. †
    static let skipInterval: UInt64 = 512
    static let skippedNumbersKept = 64
    static let ackRangesKept = 64
    /// The array of settled messages keeps room for this many from one ACK frame to the next. †
    static let settledKept = 256
    /// Ack-eliciting messages in flight: a peer that withholds ACKs stops us here and can't fill our memory. †
    static let unacknowledgedMessages = 32_768

    // MARK: Datagrams (PROTOCOL, carriers)

    /// Bytes of UDP payload that every path must carry, and the exact size of a handshake message (RFC 9000 §14).
    static let baseDatagramSize = 1_200
    /// The step between larger sizes: a finer search isn't worth the probes. †
    static let datagramSizeUnit = 64
    /// The largest multiple of the padding unit that fits into a UDP datagram over IPv4.
    static let greatestDatagramSize = 65_504
    /// The anti-amplification limit of RFC 9000 §8.1.
    static let amplification = 3
    static let challengesPerCandidate = 3
    /// A new address is challenged no sooner than this after the last: a peer that moves more often is followed no faster. †
    static let candidateInterval = TimeAmount.milliseconds(100)
    static let pathResponsesReadAtOnce = 8
    /// In messages: while the congestion window holds at least this many, MTU probes go out although other frames wait. †
    static let windowForSizeProbes = 32
    static let cookieSecretLifetime = TimeAmount.seconds(120)
    /// Initiations in datagrams that are opened in a second: from all addresses without a valid cookie, from one address with
    /// one, and how many of the latter addresses are counted. †
    static let initiationsWithoutCookie = 100
    static let initiationsPerSource = 20
    static let sourcesCounted = 1_024
    /// A responder's responses, and its cookie replies, that wait for the socket. †
    static let datagramAnswersKept = 256

    // MARK: Ends of streams (PROTOCOL, ends)

    /// A held TCP reset goes out when no further byte was acknowledged in this many checks. †
    static let heldCheckInterval = TimeAmount.seconds(1)
    static let heldChecks = 10
    /// A TCP reset is held only while the connection's unacknowledged bytes are at most this many times its send buffer's
    /// bound. †
    static let heldWithin = 2

    // MARK: Flow control (RFC 9000 §4) and memory

    static let initialStreamWindow: UInt64 = 128 * 1_024  // †
    static let maxStreamWindow: UInt64 = 6 * 1_024 * 1_024  // †
    /// The full window from the start, since it only bounds memory: a smaller one would be used up by one stream whose reader
    /// stands still, and block all others.
    static let maxConnectionWindow: UInt64 = 16 * 1_024 * 1_024
    static let minStreamData: UInt64 = 4_096
    static let sendBufferPerConnection = 16 * 1_024 * 1_024
    /// Shared by all connections of one responder, in each direction, beyond the minimum of each: three connections can have
    /// all that one may have, and something is left for more. †
    static let streamMemory: UInt64 = 64 * 1_024 * 1_024
    static let connectionMemoryAtLeast: UInt64 = 1_024 * 1_024
    static let unsentPerStream = 512 * 1_024  // †
    /// On top of the others: unacknowledged bytes of the control stream. A control message has up to 64 KiB.
    static let controlSendBuffer = 512 * 1_024  // †
    static let unsentPerStreamAtLeast = 16 * 1_024  // †
    /// While at most this many bytes wait to be read on the connection, a piece of a bulk stream of at least
    /// `bulkPieceAtLeast` bytes gets a buffer with room for many: at most 32 such buffers, 2 MiB. †
    static let bulkRoomBelow: UInt64 = 32 * 1_024
    static let bulkPieceAtLeast = 1_024
    static let gapsPerStream = 4_096  // †
    static let gapsPerConnection = 16_384  // †
    static let peerStreams: UInt64 = 8_192  // †
    /// Streams of both sides that a connection has at most before it opens no more: a peer that grants any number, and never ends
    /// its direction of one, must not fill the memory. A stream is kept longer here than by a peer that has closed it. †
    static let streams = 32_768
    static let greatestStreamCount: UInt64 = 1 << 60
    static let pathResponsesKept = 8
    /// Bytes of queued DATAGRAMs, in each direction: PROTOCOL, limits.
    static let datagramsQueued = 1_024 * 1_024
    /// Memory that each queued DATAGRAM costs besides its payload. It is counted too, so that empty ones are bounded as well.
    /// †
    static let datagramOverhead = 64
    /// RFC 9221 §3: the value for "whatever fits into a message".
    static let maxDatagramFrameSize = 65_535

    // MARK: Liveness (PROTOCOL, liveness)

    static let defaultDeadAfter = TimeAmount.seconds(6)
    static let deadAfterAtLeast = TimeAmount.seconds(1)
    static let carrierGrace = TimeAmount.seconds(1)
    /// The part of `dead_after`, in probe timeouts at least this many, for which a relay may be silent before it is suspected. †
    static let relaySilence: (part: Int64, timeouts: Int64) = (6, 3)
    static let defaultLinger = TimeAmount.minutes(10)
}
