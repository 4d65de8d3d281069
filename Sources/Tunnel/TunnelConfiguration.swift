public import NIOCore

/// What an agent chooses about its connections.
public struct TunnelConfiguration: Sendable {
    /// A peer that acknowledged nothing for so long is gone. Both use the smaller of theirs. At least 1 s.
    public var deadAfter = Constants.defaultDeadAfter
    /// How long a connection outlives its last carrier.
    public var linger = Constants.defaultLinger
    /// The greatest message we take on a stream carrier.
    public var maxMessageSize = Constants.defaultMaxMessageSize
    /// The greatest DATAGRAM frame we take, its type and length included; 0: none.
    public var maxDatagramFrameSize = Constants.maxDatagramFrameSize
    /// Whether the peer may say which of a stream's bytes are urgent.
    public var takesUrgent = true
    /// How many streams the peer may have open at once.
    public var maxStreamsFromPeer = Constants.peerStreams
    /// The bound of what the peer may send ahead of our reading, on all streams.
    public var maxConnectionWindow = Constants.maxConnectionWindow
    /// The bound of what we keep of our own until the peer has it.
    public var sendBuffer = Constants.sendBufferPerConnection
    /// A responder's bound of both for all its connections together, each for itself, beyond what one may have in any case.
    public var streamMemory = Constants.streamMemory
    public var connectionMemoryAtLeast = Constants.connectionMemoryAtLeast

    /// How fast datagrams are sent.
    public var congestionAlgorithm = CongestionAlgorithm.model

    public init() {}

    /// - Parameter sharesMemory: the connection is one of many, and gets more as soon as it is there.
    func parameters(_ id: ConnectionID, sharesMemory: Bool = false) -> TransportParameters {
        var parameters = TransportParameters(connectionID: id)
        parameters.initialMaxData = self.maxConnectionWindow
        if sharesMemory { parameters.initialMaxData = min(self.maxConnectionWindow, self.connectionMemoryAtLeast) }
        parameters.initialMaxStreamData = Constants.initialStreamWindow
        parameters.initialMaxStreams = self.maxStreamsFromPeer
        parameters.maxDatagramFrameSize = UInt64(max(0, self.maxDatagramFrameSize))
        parameters.maxMessageSize = self.maxMessageSize
        parameters.deadAfter = self.deadAfter
        parameters.takesUrgent = self.takesUrgent
        return parameters
    }
}
