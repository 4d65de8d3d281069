import CommandText
public import InterceptModel
import InterceptProtocol
import NIOCore
public import Noise

/// One line about what a key did at this sidecar, or what was done to it, so that people can find out later which workspace had
/// a service's clients.
public struct AuditLine: Equatable, Sendable {
    public enum Event: String, Sendable {
        case start
        case stop
        /// A `start` or `mirror` was answered by `failed`.
        case refusal
        case takeover = "take-over"
        case admission
        case leave
        /// A right was taken back while it was used.
        case withdrawal
        /// The key isn't accepted any more.
        case revocation
        /// The key's time is over.
        case expiry
    }

    public var event: Event
    public var time = UTCTime.now
    public var key: PublicKey
    public var label: String
    /// The address from which the key's workspace sends. Nil: the workspace isn't connected, or its carrier has no IP address.
    public var address: String?
    public var kind: HoldingKind?
    /// Of those that the sidecar serves, the first few.
    public var ports: [ServicePort]
    /// How many others there were. A workspace may name any: what it invents must not fill the log.
    public var morePorts = 0
    /// One word, or the code of a failure.
    public var result: String
    /// For people.
    public var reason: String?
    /// How many lines about this key were left out since the last one.
    public var leftOut: UInt64 = 0

    /// † Also of those that a reason names.
    static let portsAtMost = 16
}

/// How many lines are written about one key: 20 at once, then one each second. †
struct AuditShare {
    private var lines = Allowance(atOnce: 20, interval: .seconds(1))
    private var leftOut: UInt64 = 0

    /// Nil: don't write now. Otherwise, how many were left out since the last one.
    mutating func takeLine(at now: NIODeadline = .now()) -> UInt64? {
        guard self.lines.take(at: now) else {
            self.leftOut += 1
            return nil
        }
        defer { self.leftOut = 0 }
        return self.leftOut
    }
}

extension SidecarAgent {
    func audit(
        _ event: AuditLine.Event,
        _ key: PublicKey,
        _ result: String,
        _ kind: HoldingKind? = nil,
        _ ports: Set<ServicePort>? = nil,
        _ reason: String? = nil,
        label: String? = nil
    ) {
        guard let onAudit = self.onAudit, let leftOut = self.standing(of: key).audit.takeLine() else { return }
        let entry = self.table[key]
        let all = ports ?? entry?.reserved ?? []
        let named = all.filter { self.serves($0) }.sorted().prefix(AuditLine.portsAtMost)
        var line = AuditLine(
            event: event,
            key: key,
            label: label ?? self.links[key]?.name ?? self.accepted(key)?.name ?? key.abbreviated,
            kind: kind ?? entry?.kind,
            ports: Array(named),
            morePorts: all.count - named.count,
            result: result,
            reason: reason,
            leftOut: leftOut
        )
        if let address = self.server?.remoteAddress(of: key), let host = address.ipAddress {
            line.address = Endpoint(host: host, port: UInt16(clamping: address.port ?? 0)).description
        }
        onAudit(line)
    }

    func audit(
        _ event: AuditLine.Event,
        _ key: PublicKey,
        _ result: String,
        of claim: Admission.Claim?,
        label: String?,
        _ reason: String? = nil
    ) {
        self.audit(event, key, result, claim?.kind, claim?.ports ?? [], reason, label: label)
    }
}
