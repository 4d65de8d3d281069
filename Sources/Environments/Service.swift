public import InterceptModel

/// A service as people see it.
public struct Service: Codable, Equatable, Sendable {
    public enum State: String, Codable, Sendable {
        case starting
        case running
        /// It ended, and will be started again.
        case restarting
        /// It ended and isn't started again, or couldn't be started.
        case stopped
    }

    public struct Port: Codable, Equatable, Hashable, Sendable {
        /// The port that clients and `--port` use.
        public var published: UInt16
        /// The port on which the service's own process listens.
        public var target: UInt16
        public var name: String?
        /// Nil: TCP.
        public var transport: Transport?

        public init(published: UInt16, target: UInt16, name: String? = nil, transport: Transport = .tcp) {
            self.published = published
            self.target = target
            self.name = name
            self.transport = transport == .tcp ? nil : transport
        }

        public var isUDP: Bool { self.transport == .udp }
    }

    public var name: String
    public var state: State
    /// Why it isn't running, as a clause: "exited with code 1", "doesn't listen on 21090 yet".
    public var reason: String?
    public var ports: [Port]
    public var replicas: Int
    /// Why it can't be intercepted, and what to do, in two sentences.
    public var refusal: String?
    /// It may listen on ports that the environment doesn't know.
    public var mayHaveOtherPorts: Bool?
    /// HOST:PORT on the engine's machine, at which clients can reach it, too.
    public var places: [String]?
    /// The port numbers of the engine's machine under which its ports are published.
    public var publications: [Publication]?
    /// Names and ids of its containers, which a user may type in place of its name.
    public var containers: [String]?

    /// Ephemeral containers of sidecars in the specifications of its pods, from which nobody can remove them, and how many of them
    /// have ended.
    public var sidecarEntries: Entries?

    public struct Entries: Codable, Equatable, Sendable {
        public var all: Int
        public var ended: Int

        public init(all: Int, ended: Int) {
            self.all = all
            self.ended = ended
        }
    }

    public struct Publication: Codable, Equatable, Hashable, Sendable {
        /// The port on the engine's machine.
        public var host: UInt16
        private var target: UInt16
        private var transport: Transport

        public init(host: UInt16, port: ServicePort) {
            self.host = host
            self.target = port.number
            self.transport = port.transport
        }

        /// The service's own port.
        public var port: ServicePort { .init(self.target, self.transport) }
    }

    public init(name: String, state: State, reason: String? = nil, ports: [Port], replicas: Int = 1) {
        self.name = name
        self.state = state
        self.reason = reason
        self.ports = ports
        self.replicas = replicas
    }

    /// By a container's name, its full id, or its id shortened to at least 12 characters, as the engine's client shortens
    /// it.
    public func hasContainer(_ name: String) -> Bool {
        (self.containers ?? []).contains {
            $0 == name || ($0.utf8.count == 64 && name.utf8.count >= 12 && $0.hasPrefix(name))
        }
    }
}
