/// How an agent divides what its buffers may take in all, where that is less than usual: beside an application, in a pod whose
/// memory is limited, what the agent takes is taken from the application.
public struct MemoryLimits: Sendable {
    /// † Less isn't worth having: a tunnel has 1 MiB in each direction in any case.
    public static let atLeast = 8 * 1_024 * 1_024

    /// What tunnels keep, in each direction.
    let tunnels: Int
    let relays: Int
    let early: Int
    let copies: Int
    /// The number of clients at once. † Each may have 32 KiB that its socket doesn't take, which few have at the same time.
    let clients: Int
    /// What is read of a client at once. † All that wait for room may read when there is some.
    let read = 16 * 1_024

    init(all: Int) {
        self.tunnels = all / 4
        self.relays = all / 4
        self.early = all / 8
        self.copies = all / 8
        self.clients = all / (16 * 1_024)
    }
}

extension SidecarAgent.Configuration {
    /// - Parameter bytes: at least `MemoryLimits.atLeast`.
    public mutating func limitMemory(to bytes: Int) {
        let memory = MemoryLimits(all: bytes)
        self.memory = memory
        self.tunnel.streamMemory = UInt64(memory.tunnels)
        self.tunnel.maxConnectionWindow = min(self.tunnel.maxConnectionWindow, UInt64(memory.tunnels))
        self.tunnel.sendBuffer = min(self.tunnel.sendBuffer, memory.tunnels)
    }
}
