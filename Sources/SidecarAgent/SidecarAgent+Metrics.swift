import Carriers
public import InterceptModel
import Tunnel

extension SidecarAgent {
    /// The values for a metrics scrape.
    public var measurements: SidecarMeasurements {
        var result = SidecarMeasurements()
        result.clients = self.clients
        result.intercepted = self.interceptedTotal
        result.passed = self.passedTotal
        result.isDiverting = self.table.entries.contains { $0.kind == .intercept && $0.isServed }
        for entry in self.table.entries { result.holders[entry.kind, default: 0] += 1 }
        result.refused = self.refusedTotal.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
        for link in self.links.values {
            let status = link.status
            result.bytesIn += status.bytesIn
            result.bytesOut += status.bytesOut
            result.openStreams += Int(status.open)
            if let statistics = link.withConnection({ $0.statistics }) {
                result.messagesSent += statistics.messagesSent
                result.messagesReceived += statistics.messagesReceived
                result.messagesLost += statistics.messagesLost
            }
        }
        if let server = self.server {
            result.drops = DropReason.allCases.map { ($0.label, server.drops[$0]) }
        }
        return result
    }
}

/// What `--metrics` shows.
public struct SidecarMeasurements {
    public var clients = 0
    public var intercepted: UInt64 = 0
    public var passed: UInt64 = 0
    public var isDiverting = false
    public var holders: [HoldingKind: Int] = [:]
    public var refused: [(code: String, count: UInt64)] = []
    public var openStreams = 0
    public var bytesIn: UInt64 = 0
    public var bytesOut: UInt64 = 0
    public var messagesSent: UInt64 = 0
    public var messagesReceived: UInt64 = 0
    public var messagesLost: UInt64 = 0
    public var drops: [(reason: String, count: UInt64)] = []
}
