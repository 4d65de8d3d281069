public import NIOCore

/// Turns keepalive on for bridged sockets, in rounds: a socket gets it when it has been open at the end of a round.
///
/// With keepalive the kernel has a timer for each socket, and setting it takes four calls. For a connection that ends within
/// milliseconds this was 4 % of the sidecar's work, and it serves only those that are silent for long.
public final class KeepAliveRounds {
    private let eventLoop: any EventLoop
    private(set) var young: [ObjectIdentifier: any Channel] = [:]
    private var isScheduled = false

    /// A third of the silence after which keepalive asks first, at most 15 s. †
    static let interval = TimeAmount.seconds(Int64(max(1, SocketOptions.keepAlive.idle / 3)))

    public init(on eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    /// Called on the event loop once the channel is bridged.
    func add(_ channel: any Channel) {
        self.young[ObjectIdentifier(channel)] = channel
        guard !self.isScheduled else { return }
        self.isScheduled = true
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.interval) { [weak self] () -> Void in self?.endRound() }
    }

    /// Called when the channel is closed, or not bridged any more.
    func remove(_ channel: any Channel) { self.young[ObjectIdentifier(channel)] = nil }

    func endRound() {
        self.isScheduled = false
        let old = self.young.values
        self.young = [:]
        for channel in old { SocketOptions.keepAlive(channel) }
    }
}
