import Carriers
public import InterceptProtocol

/// Which local address answers for which port of the service, looked up.
public struct LocalTargets: Sendable {
    public let mappings: [PortMapping]
    private let targets: [ControlMessage.Port: DialTarget]

    /// Looks names up, which takes its time.
    ///
    /// - Parameter flag: by which the mappings were given, for the error.
    public init(_ mappings: [PortMapping], flag: String = "--map") throws(StartError) {
        self.mappings = mappings
        var targets: [ControlMessage.Port: DialTarget] = [:]
        for mapping in mappings {
            let target = mapping.target
            if target.host == "127.0.0.1" || target.host == "localhost" {
                targets[mapping.service] = DialTarget(loopbackPort: Int(target.port))
            } else {
                do {
                    targets[mapping.service] = try DialTarget(host: target.host, port: Int(target.port))
                } catch {
                    throw StartError("'\(target)' can't be reached: \(Failure.describe(error)). Check the \(flag).")
                }
            }
        }
        self.targets = targets
    }

    public subscript(_ port: ControlMessage.Port) -> DialTarget? { self.targets[port] }

    var ports: [ControlMessage.Port] { self.mappings.map(\.service) }
}

/// The agent can't begin: what is wrong, and what to do.
public struct StartError: Error, CustomStringConvertible {
    public let description: String

    init(_ description: String) { self.description = description }
}
