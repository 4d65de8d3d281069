public import NIOCore

/// A stream of bytes that leads through something of this side's own, such as a child program, to the peer. It lives on one event
/// loop.
public protocol RelayedStream: AnyObject {
    /// Ends it.
    ///
    /// - Parameters:
    ///   - delay: how long it may take to end by itself.
    ///   - told: called once it has ended, with the reason, as a clause without a subject.
    func end(after delay: TimeAmount, telling told: @escaping (_ reason: String) -> Void)
}

/// A way to the peer that this process opens itself, neither by a socket's address nor by a command.
///
/// Two relays of the same identity are the same.
public struct StreamRelay: Hashable, Sendable {
    /// For people: one word, such as `pod/web-1`.
    public let name: String
    private let identity: String
    private let opener: @Sendable (any EventLoop, NIOLoopBound<Opening>) -> Void

    /// What becomes of an attempt to open it. Each is called on the event loop, and at most one of them, once.
    public struct Opening {
        /// Adds the user's handlers to the end of the pipeline, before the channel's bytes arrive there. The channel must
        /// become active, or have been made so, in their sight.
        public let attach: (any Channel, any RelayedStream) throws -> Void
        /// It leads nowhere; the reason is a clause with a subject.
        public let failed: (_ reason: String) -> Void

        public init(
            attach: @escaping (any Channel, any RelayedStream) throws -> Void,
            failed: @escaping (_ reason: String) -> Void
        ) {
            self.attach = attach
            self.failed = failed
        }
    }

    /// - Parameter identity: what it leads to, exactly.
    public init(
        _ name: String,
        identity: String,
        opener: @escaping @Sendable (any EventLoop, NIOLoopBound<Opening>) -> Void
    ) {
        self.name = name
        self.identity = identity
        self.opener = opener
    }

    /// - Precondition: called on the event loop.
    public func open(on eventLoop: any EventLoop, _ opening: Opening) {
        self.opener(eventLoop, NIOLoopBound(opening, eventLoop: eventLoop))
    }

    public static func == (one: StreamRelay, other: StreamRelay) -> Bool { one.identity == other.identity }

    public func hash(into hasher: inout Hasher) { hasher.combine(self.identity) }
}

extension FilterProcess: RelayedStream {
    public func end(after delay: TimeAmount, telling told: @escaping (_ reason: String) -> Void) {
        self.end(after: delay) { told($0.reason) }
    }
}
