import InterceptProtocol

/// What one accepted key may use of what all share, also where it ends its connection and begins another.
final class PeerStanding {
    let log = LogShare()
    /// `start` and `stop`: each may be a change of the kernel's rules, and a word to whoever else has the service. †
    var changes = Allowance(atOnce: 16, interval: .milliseconds(100))
}
