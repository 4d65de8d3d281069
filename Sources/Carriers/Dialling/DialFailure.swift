public import HostSupport

/// Why an address led to no sidecar.
public enum DialFailure: Equatable, Sendable {
    /// It can't be connected to.
    case unreachable(TunnelClient.Address, why: String)
    /// The command's program can't be started.
    case notStarted(TunnelClient.Address, HostError)
    /// What a command or a relay led to has ended; why is a clause without a subject.
    case relayEnded(TunnelClient.Address, why: String)
    /// It accepted the connection and closed it without an answer, as a sidecar does that doesn't accept the key.
    case closed(TunnelClient.Address)
    case silent(TunnelClient.Address)
    case speaksOtherwise(TunnelClient.Address)

    public var address: TunnelClient.Address {
        switch self {
        case .unreachable(let address, _), .notStarted(let address, _), .relayEnded(let address, _): address
        case .closed(let address), .silent(let address), .speaksOtherwise(let address): address
        }
    }

    /// Datagrams were sent and none came back, which can have many causes.
    public var isSilenceOverDatagrams: Bool {
        if case .silent(let address) = self { address.isDatagrams } else { false }
    }
}

/// For people: `10.0.0.1:51820 can't be reached: connection refused`.
extension DialFailure: CustomStringConvertible {
    public var description: String {
        switch self {
        case .unreachable(let address, let why): "\(Self.name(address)) \(Self.unreachable(address)): \(why)"
        case .notStarted(_, let error): "\(error)"
        case .relayEnded(let address, let why): "\(Self.name(address)) \(why)"
        case .closed(let address): "\(Self.name(address)) closed the connection without an answer"
        case .silent(let address): "\(Self.name(address)) gives no answer\(address.isDatagrams ? " over UDP" : "")"
        case .speaksOtherwise(let address): "\(Self.name(address)) doesn't speak the tunnel's protocol"
        }
    }

    private static func name(_ address: TunnelClient.Address) -> String {
        if case .command = address { "'\(address.abbreviated)'" } else { "\(address)" }
    }

    private static func unreachable(_ address: TunnelClient.Address) -> String {
        switch address {
        case .tcp: "can't be reached"
        case .udp: "can't be reached over UDP"
        case .command, .relay: "can't be talked to"
        }
    }
}

extension [DialFailure] {
    /// All of a round through the addresses, as one clause.
    public var text: String { self.map { "\($0)" }.joined(separator: "; ") }
}
