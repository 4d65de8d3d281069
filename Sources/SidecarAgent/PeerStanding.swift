import InterceptProtocol

/// What one accepted key may use of what all share, also where it ends its connection and begins another.
final class PeerStanding {
    let log = LogShare()
}
