import NIOCore

/// Connections that are open to the original on ports that a workspace intercepts from now on: they get time to end by
/// themselves.
///
/// Most of them go around the sidecar, and the kernel knows them. Others the sidecar passed on, since a mirror had brought the
/// port's clients to it before.
struct OriginalsDrain {
    var ports: Set<UInt16> = []
    var passed: [UInt16: Set<UInt64>] = [:]
    var timer: Scheduled<Void>?
}

/// The TCP clients that were passed on to the original, by their service's port, each with a number of its own.
struct PassedClients {
    private var byPort: [UInt16: [UInt64: any Channel]] = [:]
    private var next: UInt64 = 0

    mutating func add(_ channel: any Channel, on port: UInt16) -> UInt64 {
        defer { self.next += 1 }
        self.byPort[port, default: [:]][self.next] = channel
        return self.next
    }

    mutating func remove(_ number: UInt64, on port: UInt16) { self.byPort[port]?[number] = nil }

    func numbers(on port: UInt16) -> Set<UInt64> { Set((self.byPort[port] ?? [:]).keys) }

    /// The clients among them whose connections are still open.
    func channels(_ numbers: Set<UInt64>, on port: UInt16) -> [any Channel] {
        numbers.compactMap { self.byPort[port]?[$0] }
    }
}
