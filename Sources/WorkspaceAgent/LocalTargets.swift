import Carriers
public import InterceptModel
import InterceptProtocol

/// The local address for each port of the service, with host names resolved.
public struct LocalTargets: Sendable {
    public let mappings: [PortMapping]
    private let targets: [ServicePort: DialTarget]

    /// Resolves host names, which blocks.
    ///
    /// - Parameter flag: the flag that gave the mappings, for the error message.
    public init(_ mappings: [PortMapping], flag: String = "--map") throws(StartError) {
        self.mappings = mappings
        var targets: [ServicePort: DialTarget] = [:]
        for mapping in mappings {
            let target = mapping.target
            if target.host == "127.0.0.1" || target.host == "localhost" {
                targets[mapping.port] = DialTarget(loopbackPort: Int(target.port))
            } else {
                do {
                    targets[mapping.port] = try DialTarget(host: target.host, port: Int(target.port))
                } catch {
                    throw StartError("'\(target)' can't be reached: \(SocketError.describe(error)). Check the \(flag).")
                }
            }
        }
        self.targets = targets
    }

    private init(_ mappings: [PortMapping], _ targets: [ServicePort: DialTarget]) {
        self.mappings = mappings
        self.targets = targets
    }

    /// The same targets for the ports of a sidecar that calls them otherwise. Of several ports that are one there, the first counts.
    ///
    /// - Parameter own: nil for a port that the sidecar doesn't have.
    public func renamed(_ own: (ServicePort) -> ServicePort?) -> LocalTargets {
        var mappings: [PortMapping] = []
        var targets: [ServicePort: DialTarget] = [:]
        for mapping in self.mappings {
            guard let port = own(mapping.port), targets[port] == nil else { continue }
            mappings.append(PortMapping(port, to: mapping.target))
            targets[port] = self.targets[mapping.port]
        }
        return LocalTargets(mappings, targets)
    }

    public subscript(_ port: ServicePort) -> DialTarget? { self.targets[port] }

    var ports: [ServicePort] { self.mappings.map(\.port) }
}

/// The agent can't start: what is wrong, and what to do.
public struct StartError: Error, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }
}
