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
    /// Of a take-over: the key that had the ports.
    public var takenFrom: PublicKey?
    /// Of an admission: what the key may do. Nil: all that the sidecar's flags allow.
    public var grant: Grant?
    /// Of an admission: its claim takes ports from others.
    public var isForced = false
    /// How many lines that this one's limit counts were left out just before it.
    public var leftOut: UInt64 = 0

    /// † Also of those that a reason names.
    public static let portsAtMost = 16
}

/// How many lines are written of those that one key causes: 20 at once, then one each second. † Of those left out, the last one is
/// written as soon as that is allowed: it says how things stand.
final class AuditShare {
    private var lines = Allowance(atOnce: 20, interval: .seconds(1))
    private var waiting: AuditLine?
    /// `takeWaiting` will be called.
    var isWatched = false

    /// The line, if it may be written now. Otherwise it waits, in place of the one that has waited so far.
    func take(_ line: AuditLine, at now: NIODeadline = .now()) -> AuditLine? {
        var line = line
        line.leftOut = self.waiting.map { $0.leftOut + 1 } ?? 0
        let isAllowed = self.lines.take(at: now)
        self.waiting = isAllowed ? nil : line
        return isAllowed ? line : nil
    }

    /// The line that waits, if it may be written now.
    func takeWaiting(at now: NIODeadline = .now()) -> AuditLine? {
        guard self.waiting != nil, self.lines.take(at: now) else { return nil }
        return self.takeLast()
    }

    /// The line that waits, though it comes too early: there will be no others.
    func takeLast() -> AuditLine? {
        defer { self.waiting = nil }
        return self.waiting
    }

    var hasWaiting: Bool { self.waiting != nil }

    /// When the line that waits may be written.
    var next: NIODeadline { self.lines.next }
}

extension SidecarAgent {
    func audit(
        _ event: AuditLine.Event,
        _ key: PublicKey,
        _ result: String,
        _ kind: HoldingKind? = nil,
        _ ports: Set<ServicePort>? = nil,
        _ reason: String? = nil,
        label: String? = nil,
        from loser: PublicKey? = nil
    ) {
        guard self.onAudit != nil else { return }
        self.write(self.line(event, key, result, kind, ports, reason, label: label, from: loser))
    }

    func auditAdmission(of peer: AcceptedKey, force: Bool, _ result: String, _ reason: String? = nil) {
        guard self.onAudit != nil else { return }
        let ports = peer.claim?.ports ?? []
        var line = self.line(
            .admission,
            peer.key,
            result,
            peer.claim?.kind,
            ports,
            reason,
            label: peer.label,
            from: nil
        )
        line.grant = (self.accepted(peer.key) ?? peer).grant
        line.isForced = force
        self.write(line)
    }

    private func line(
        _ event: AuditLine.Event,
        _ key: PublicKey,
        _ result: String,
        _ kind: HoldingKind?,
        _ ports: Set<ServicePort>?,
        _ reason: String?,
        label: String?,
        from loser: PublicKey?
    ) -> AuditLine {
        let entry = self.table[key]
        let all = ports ?? entry?.reserved ?? []
        let named = all.filter { self.sidesByPort[$0] != nil }.sorted().prefix(AuditLine.portsAtMost)
        var line = AuditLine(
            event: event,
            key: key,
            label: self.accepted(key)?.label ?? label ?? self.links[key]?.name ?? key.abbreviated,
            kind: kind ?? entry?.kind,
            ports: Array(named),
            morePorts: all.count - named.count,
            result: result,
            reason: reason,
            takenFrom: loser
        )
        if let address = self.server?.remoteAddress(of: key), let host = address.ipAddress {
            line.address = Endpoint(host: host, port: UInt16(clamping: address.port ?? 0)).description
        }
        return line
    }

    private func write(_ line: AuditLine) {
        guard let share = self.share(of: line) else {
            self.onAudit?(line)
            return
        }
        if let line = share.take(line) { self.onAudit?(line) }
        self.watch(share)
    }

    /// What limits such lines. No key can use up a share from which lines about others are taken.
    private func share(of line: AuditLine) -> AuditShare? {
        switch line.event {
        case .start, .stop, .refusal: return self.standing(of: line.key).audit
        // Whoever loses ports must have asked for them before, so two keys that take a port from each other use up their own two
        // shares alone, and can hide that from nobody else.
        case .takeover: return line.takenFrom.map { self.standing(of: $0).losses }
        // A program that may admit keys can ask as often as it likes.
        case .admission: return line.reason == nil ? nil : self.standing(of: line.key).audit
        // As many as the operator's changes and the clock make.
        case .leave, .withdrawal, .revocation, .expiry: return nil
        }
    }

    private func watch(_ share: AuditShare) {
        guard share.hasWaiting, !share.isWatched else { return }
        share.isWatched = true
        self.eventLoop.assumeIsolated().scheduleTask(deadline: share.next) { [weak self] in
            share.isWatched = false
            guard let self else { return }
            if let line = share.takeWaiting() { self.onAudit?(line) }
            self.watch(share)
        }
    }

    /// Writes what waits, since nothing more comes of this standing.
    func finishAudit(of standing: PeerStanding) {
        for share in [standing.audit, standing.losses] {
            if let line = share.takeLast() { self.onAudit?(line) }
        }
    }
}
