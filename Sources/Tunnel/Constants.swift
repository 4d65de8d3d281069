import NIOCore

/// Every number of the protocol that isn't a field's width, with its source.
///
/// "PROTOCOL" is docs/PROTOCOL.md. Values that it marks as judgement are marked † here too.
enum Constants {
    /// What both sides mix into the handshake first: another version or another protocol fails at once.
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
    /// Frames are padded to a multiple of this, as WireGuard pads packets: lengths tell less.
    static let paddingUnit = 16

    // MARK: Sessions (WireGuard's paper, §6.1, and PROTOCOL, sessions and keys)

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
    /// A responder closes a stream carrier that it knows nothing of after 5 s: one that was neither answered nor closed
    /// for twice as long leads nowhere. †
    static let answerPatience = TimeAmount.seconds(10)

    // MARK: A responder's caps (PROTOCOL, silence)

    static let initiationsPerSecond = 50
    /// Curve25519 work for initiations whose mac1 is right: 0.11 ms each, so at most a tenth of a core. †
    static let handshakeBudgetPerSecond = 1_000
    /// How the budget is given out on byte streams: 100 at once, then one each millisecond; those that wait get theirs five at a
    /// time. †
    static let handshakesAtOnce = 100
    static let initiationsInATurn = 5
    static let waitingCarriers = 64  // †
    /// Initiations that are opened on a stranger's byte stream: three in all, 20 ms apart. On a known key's that carries no
    /// connection yet: any number, as far apart. †
    static let openingsPerCarrier = 3
    static let openingInterval = TimeAmount.milliseconds(20)
    /// An initiator closes those that it left; one that doesn't loses the oldest. †
    static let carriersPerConnection = 8
    static let silenceBeforeClose = TimeAmount.seconds(5)

    // MARK: Recovery (RFC 9002, appendix A.2) and acknowledgement

    static let ackDelayExponent: UInt64 = 3
    static let maxAckDelay = TimeAmount.milliseconds(25)
    static let initialRoundTripTime = TimeAmount.milliseconds(333)
    static let granularity = TimeAmount.milliseconds(1)
    static let bytesBeforeAck = 128 * 1_024  // †
    /// RFC 9000 §13.2.2: in datagrams every second message that asks for it is acknowledged at once.
    static let messagesBeforeAck = 2
    static let acksAloneAtMost = 32  // †
    static let packetThreshold: UInt64 = 3
    /// RFC 9002 §6.2.4.
    static let probesAfterTimeout = 2
    static let persistentCongestionThreshold: Int64 = 3
    /// After so many probe timeouts without an answer, and no sooner than this, datagrams are held not to get through. †
    static let timeoutsBeforeDark = 3
    static let darkNoSooner = TimeAmount.milliseconds(500)
    /// Datagrams that get through no more so soon after they were chosen have lapsed. The second time in a row and from then
    /// on they are left alone for a while: handshakes that get through where nothing else does mustn't take the connection
    /// back and forth. †
    static let lapseWithin = TimeAmount.seconds(30)
    static let lapsePauses: [TimeAmount] = [.zero, .seconds(5), .seconds(15), .seconds(60), .seconds(300)]
    /// What was declared lost is remembered for a while, to learn that it had only come late. †
    static let lostNumbersKept = 4_096
    /// One number in about this many is left out, to catch acknowledgement of what was never sent. †
    static let skipInterval: UInt64 = 512
    static let skippedNumbersKept = 64
    static let ackRangesKept = 64
    /// For so many settled messages the room is kept from one ACK frame to the next. †
    static let settledKept = 256
    /// Ack-eliciting messages in flight: a peer that withholds ACKs stops us here rather than filling our memory. †
    static let unacknowledgedMessages = 32_768

    // MARK: Datagrams (PROTOCOL, carriers)

    /// Bytes of UDP payload that every path carries: a handshake message has exactly so many (RFC 9000 §14).
    static let baseDatagramSize = 1_200
    /// Above that, sizes differ by so much: closer isn't worth the probes. †
    static let datagramSizeUnit = 64
    /// The greatest multiple of the padding unit that a UDP datagram takes over IPv4.
    static let greatestDatagramSize = 65_504
    /// RFC 9000 §8.1.
    static let amplification = 3
    static let challengesPerCandidate = 3
    /// A peer that changes its address more often is followed no faster. †
    static let candidateInterval = TimeAmount.milliseconds(100)
    static let pathResponsesReadAtOnce = 8
    /// Messages: where the window holds as many, greater sizes are tried while others wait. †
    static let windowForSizeProbes = 32
    static let cookieSecretLifetime = TimeAmount.seconds(120)
    /// Initiations opened a second of those who have not shown that they receive at their address, of one address that has,
    /// and addresses that are counted. †
    static let initiationsWithoutCookie = 100
    static let initiationsPerSource = 20
    static let sourcesCounted = 1_024
    /// Answers that wait for the socket: a responder's to strangers. †
    static let datagramAnswersKept = 256

    // MARK: Ends of streams (PROTOCOL, ends)

    /// A TCP reset waits for the bytes before it as long as some of them are acknowledged in so many checks. †
    static let heldCheckInterval = TimeAmount.seconds(1)
    static let heldChecks = 10
    /// And while no more is unacknowledged on its connection than so many times what is kept for live streams. †
    static let heldWithin = 2

    // MARK: Flow control (RFC 9000 §4) and memory

    static let initialStreamWindow: UInt64 = 128 * 1_024  // †
    static let maxStreamWindow: UInt64 = 6 * 1_024 * 1_024  // †
    /// From the start, since it bounds memory and nothing else: a smaller one would be used up by one stream whose reader
    /// stands still, and stop all others.
    static let maxConnectionWindow: UInt64 = 16 * 1_024 * 1_024
    static let minStreamData: UInt64 = 4_096
    static let sendBufferPerConnection = 16 * 1_024 * 1_024
    /// Of all connections of one responder, in each direction, beyond what each may hold whatever the others do: three have all
    /// that one may have, and something is left for more. †
    static let streamMemory: UInt64 = 64 * 1_024 * 1_024
    static let connectionMemoryAtLeast: UInt64 = 1_024 * 1_024
    static let unsentPerStream = 512 * 1_024  // †
    /// Besides: what of the control stream is unacknowledged. A message has up to 64 KiB.
    static let controlSendBuffer = 512 * 1_024  // †
    static let unsentPerStreamAtLeast = 16 * 1_024  // †
    /// While no more than so many bytes wait on the connection, a bulk stream's piece of at least that size is put into a buffer
    /// with room for many: 32 of them at most, 2 MiB. †
    static let bulkRoomBelow: UInt64 = 32 * 1_024
    static let bulkPieceAtLeast = 1_024
    static let gapsPerStream = 4_096  // †
    static let gapsPerConnection = 16_384  // †
    static let peerStreams: UInt64 = 8_192  // †
    static let greatestStreamCount: UInt64 = 1 << 60
    static let pathResponsesKept = 8
    /// DATAGRAMs that wait, in each direction: PROTOCOL, caps.
    static let datagramsQueued = 1_024 * 1_024
    /// What keeping one costs beside its payload, counted with it: many empty ones are bounded too. †
    static let datagramOverhead = 64
    /// RFC 9221 §3: the value for "whatever a message holds".
    static let maxDatagramFrameSize = 65_535

    // MARK: Liveness (PROTOCOL, liveness)

    static let defaultDeadAfter = TimeAmount.seconds(6)
    static let deadAfterAtLeast = TimeAmount.seconds(1)
    static let carrierGrace = TimeAmount.seconds(1)
    static let defaultLinger = TimeAmount.minutes(10)
}
