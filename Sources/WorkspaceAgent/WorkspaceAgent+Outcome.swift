public import Carriers
import InterceptModel
public import InterceptProtocol
public import NIOCore
public import Noise

/// What an agent reports.
extension WorkspaceAgent {
    public enum Outcome: Equatable, Sendable {
        /// The sidecar has sent `started` for the first time.
        case ready(roundTripTime: TimeAmount?)
        /// The agent can't go on.
        case failed(Failure)
        /// The agent was told to end, and the sidecar has confirmed it.
        case stopped(Stopped)
        /// The agent was told to end, and has ended without the sidecar's confirmation.
        case ended
    }

    public struct Stopped: Equatable, Sendable {
        public var total: UInt64
        public var passed: UInt64
        /// How many connections were open when the agent was told to end, and how many of these were reset.
        public var open: UInt64
        public var reset: UInt64
    }

    /// Events besides the outcomes.
    public enum Event: Equatable, Sendable {
        /// The snapshot has changed.
        case changed
        case started(generation: UInt64)
        /// The sidecar refused a later list of ports; the acknowledged one before it stays in force.
        case refused(generation: UInt64, ControlMessage.Failure)
        /// New connections reach the original, as the agent asked.
        case withdrawn
        /// Another workspace has taken the service over. Open connections continue.
        case takenOver(by: String)
        case carrierLost
    }

    public enum ProbeResult: Equatable, Sendable {
        /// Ports without an answer are left out.
        case answered([ServicePort: Answer])
        /// The sidecar doesn't know probes.
        case unsupported
        case failed(String)
    }

    /// Why the agent can't go on.
    public enum Failure: Equatable, Sendable {
        /// Another workspace holds the service; `since` is RFC 3339, in UTC. `isTakeoverDenied`: a takeover was asked for and
        /// not granted.
        case busy(holder: String?, since: String?, isTakeoverDenied: Bool)
        case takenOver(by: String)
        case refused(reason: String)
        /// The sidecar doesn't do mirrors, or not this one.
        case cannotCopy(reason: String)
        case noControlStream
        case presharedKeysDiffer
        case overloaded
        case notDialled([DialFailure])
        case noAnswer(from: [TunnelClient.Address], to: PublicKey, for: TimeAmount)
        case replaced
        case revoked

        /// Whether another workspace holds the service.
        public var isBusy: Bool {
            switch self {
            case .busy, .takenOver: true
            default: false
            }
        }
    }
}

/// A sentence of what is wrong and, where something can be done, one of what to do.
extension WorkspaceAgent.Failure: CustomStringConvertible {
    public var description: String {
        switch self {
        case .busy(let holder, let since, let isTakeoverDenied):
            let since = since.map { " since \($0)" } ?? ""
            let way =
                isTakeoverDenied
                ? "Ask them to stop it: this sidecar was started without --allow-takeover."
                : "Ask them to stop it, or take it over with --takeover."
            return "The service is intercepted by \(holder ?? "someone else")\(since). \(way)"
        case .takenOver(let holder): return "The intercept was taken over by \(holder)."
        case .refused(let reason): return "The sidecar refused: \(reason)."
        case .cannotCopy(let reason):
            return """
                The sidecar copies nothing: \(reason). It is of an earlier version, which can't copy: update it there. \
                Nothing was intercepted.
                """
        case .noControlStream: return "The sidecar allows no control stream: it isn't one of ours."
        case .presharedKeysDiffer:
            return "The preshared keys differ: give both sides the same --preshared-key-file, or neither of them one."
        case .overloaded: return "The sidecar is overloaded. Try again."
        case .notDialled(let failures):
            return "\(failures.text). Check the address, and that the sidecar runs."
        case .noAnswer(let addresses, let key, let time): return Self.noAnswer(from: addresses, to: key, for: time)
        case .replaced: return "Another program with the same key has taken this one's place. Give each its own key."
        case .revoked: return "The sidecar no longer accepts this key."
        }
    }

    private static func noAnswer(
        from addresses: [TunnelClient.Address],
        to key: PublicKey,
        for time: TimeAmount
    ) -> String {
        let places = addresses.map(\.abbreviated).joined(separator: " and ")
        let isBlocked = addresses.contains(where: \.isDatagrams) ? "or the network drops UDP, " : ""
        return """
            No answer from the sidecar at \(places) for \(time.nanoseconds / 1_000_000_000) s. Either the address isn't a \
            sidecar's, or its public key is another one, or it doesn't accept the key \(key) (its --peer), or this \
            machine's clock is wrong, \(isBlocked)or it speaks another version.
            """
    }
}
