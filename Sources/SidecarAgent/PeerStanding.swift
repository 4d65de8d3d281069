import InterceptProtocol

/// An accepted key's share of common resources. It outlives the key's connection, so reconnecting doesn't renew it.
final class PeerStanding {
    let log = LogShare()
    let audit = AuditShare()
    /// Of take-overs from this key.
    let losses = AuditShare()
}
