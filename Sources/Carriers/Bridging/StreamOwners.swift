public import Tunnel

/// Receives the events of one stream. Each stream has one owner, which may be replaced during the stream's life.
public protocol StreamOwner: AnyObject {
    func streamIsReadable()
    func streamIsWritable()
    func streamWasReset(_ code: StreamErrorCode)
    func streamWasStopped(_ code: StreamErrorCode)
    /// The connection is over, and the stream with it.
    func streamEnded()
}

/// The owners of a connection's streams. Where events are delivered, those of a stream go straight to its owner.
public final class StreamOwners {
    private var owners: [StreamID: any StreamOwner] = [:]

    public var count: Int { self.owners.count }

    /// The owner stays alive until the stream is released or has another.
    public func bind(_ stream: StreamID, to owner: any StreamOwner) { self.owners[stream] = owner }

    func unbind(_ stream: StreamID) { self.owners[stream] = nil }

    /// Called when the connection is over. One by one: the end of the last may be the end of all that used the connection.
    public func endAll() {
        for (stream, owner) in self.owners where self.owners.removeValue(forKey: stream) != nil { owner.streamEnded() }
    }

    /// False: the event is of no stream, or of one without an owner.
    func tell(_ event: ConnectionEvent) -> Bool {
        switch event {
        case .readable(let id): self.owners[id].map { $0.streamIsReadable() } != nil
        case .writable(let id): self.owners[id].map { $0.streamIsWritable() } != nil
        case .reset(let id, let code): self.owners[id].map { $0.streamWasReset(code) } != nil
        case .stopped(let id, let code): self.owners[id].map { $0.streamWasStopped(code) } != nil
        case .streamOpened, .datagramsReadable, .datagramAcknowledged, .urgentLeftOut, .presence, .ended: false
        }
    }
}
