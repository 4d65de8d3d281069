public import NIOCore

/// What an agent chooses about its connections.
public struct TunnelConfiguration: Sendable {
    /// A peer that has acknowledged nothing for this long is gone. Both sides use the smaller of their values. At least 1 s.
    public var deadAfter = Constants.defaultDeadAfter
    /// How long a connection lives on without a carrier.
    public var linger = Constants.defaultLinger
    /// The largest message that we accept on a byte stream.
    public var maxMessageSize = Constants.defaultMaxMessageSize
    /// The largest DATAGRAM frame that we accept, its type and length included; 0: none.
    public var maxDatagramFrameSize = Constants.maxDatagramFrameSize
    /// Whether the peer may say which of a stream's bytes are urgent.
    public var takesUrgent = true
    /// How many streams the peer may have open at once.
    public var maxStreamsFromPeer = Constants.peerStreams
    /// The bound on bytes, over all streams, that the peer may send ahead of our reading.
    public var maxConnectionWindow = Constants.maxConnectionWindow
    /// The bound on our own bytes that are kept until the peer acknowledges them.
    public var sendBuffer = Constants.sendBufferPerConnection
    /// A responder's bound on each of the two for all its connections together, beyond the minimum that each connection
    /// always has.
    public var streamMemory = Constants.streamMemory
    public var connectionMemoryAtLeast = Constants.connectionMemoryAtLeast

    /// How fast datagrams are sent.
    public var congestionAlgorithm = CongestionAlgorithm.model

    public init() {}

    /// - Parameter sharesMemory: the connection shares memory with others: it begins with the minimum window, which is raised
    ///   as it is used.
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
