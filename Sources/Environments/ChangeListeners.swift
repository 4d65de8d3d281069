/// Those who listen to the changes of one environment in this process. Belongs to an actor.
public struct ChangeListeners: Sendable {
    private var all: [UInt64: AsyncStream<EnvironmentChange>.Continuation] = [:]
    private var next: UInt64 = 0

    /// † Changes that a listener hasn't taken yet; older ones are dropped.
    private static let newsAtMost = 64

    public init() {}

    public var isEmpty: Bool { self.all.isEmpty }

    /// - Parameter onEnd: called once the listener has gone, with the number that `remove(_:)` takes.
    public mutating func add(onEnd: @escaping @Sendable (UInt64) -> Void) -> AsyncStream<EnvironmentChange> {
        let (stream, continuation) = AsyncStream.makeStream(
            of: EnvironmentChange.self,
            bufferingPolicy: .bufferingNewest(Self.newsAtMost)
        )
        self.next += 1
        let number = self.next
        self.all[number] = continuation
        continuation.onTermination = { _ in onEnd(number) }
        return stream
    }

    public mutating func remove(_ number: UInt64) { self.all[number] = nil }

    public func tell(_ change: EnvironmentChange) {
        for listener in self.all.values { listener.yield(change) }
    }
}
