import CommandText
import Environments
import InterceptModel
import Noise
import SidecarInterface

/// The labels of a sidecar's container, which can't be changed after it was made: where it belongs, and which workspace made
/// it. Its holders are in the sidecar's reports.
enum SidecarLabel {
    static let project = "io.kl.project"
    static let service = "io.kl.service"
    static let replica = "io.kl.replica"
    /// The full id of the container whose network the sidecar shares.
    static let target = "io.kl.target"
    /// The ports that it can divert: `80,443,53/udp`.
    static let ports = "io.kl.ports"
    /// The engine machine's addresses that the sidecar was given: `10.0.0.1,fd00::1`.
    static let nodes = "io.kl.nodes"
    /// The workspace that made the sidecar, and when. Of a sidecar of an earlier version, this is the only holder.
    static let holder = "io.kl.holder"
    static let key = "io.kl.key"
    static let since = "io.kl.since"
    /// Other workspaces can be admitted to it. Sidecars that earlier versions made lack this label.
    static let admits = "io.kl.admits"
    static let version = "io.kl.version"
}

/// An existing container with a sidecar, made by this or another workspace's `kl`.
struct DockerSidecar: Equatable, Sendable {
    var id: String
    var name: String
    var imageID: String?
    var project: String
    var service: String
    var replica: Int
    var target: String
    /// The path of the network namespace it joined, if it was made with that in place of the container.
    var namespace: String?
    var ports: [ServicePort]
    /// Nil: made by a version that didn't store them.
    var nodes: Set<String>?
    /// The workspace that made the sidecar.
    var holder: Member
    var since: String
    /// Whether it serves several workspaces; otherwise it serves its maker alone.
    var admits: Bool
    var status: String
    var started: String?
    /// It is coming for so long that its maker must have been lost before it could start it.
    var isStuck = false

    /// Nil: the container isn't a sidecar, or its labels aren't as `kl` writes them.
    init?(_ container: DockerContainer) {
        guard let project = container.label(SidecarLabel.project), DockerPlace.isSoundName(project),
            let service = container.label(SidecarLabel.service), DockerPlace.isSoundName(service),
            let replica = container.label(SidecarLabel.replica).flatMap({ Int($0) }), replica > 0,
            let target = container.label(SidecarLabel.target), DockerPlace.isSoundName(target),
            let key = container.label(SidecarLabel.key), PublicKey(base64: key) != nil,
            // A container inherits its image's labels. One with a network of its own isn't a sidecar, and must not be
            // removed.
            container.sharedWith == target || container.sharedNamespace != nil
        else { return nil }
        self.id = container.id
        self.name = container.name
        self.imageID = container.imageID.map(DockerContainer.bareID)
        self.project = project
        self.service = service
        self.replica = replica
        self.target = target
        self.namespace = container.sharedNamespace
        self.nodes = container.label(SidecarLabel.nodes).map { Set($0.split(separator: ",").map(String.init)) }
        self.ports = (container.label(SidecarLabel.ports) ?? "").split(separator: ",")
            .compactMap { DockerContainer.port(String($0)) }
        self.holder = Member(label: (container.label(SidecarLabel.holder) ?? "").printable, publicKey: key)
        self.since = (container.label(SidecarLabel.since) ?? "").printable
        self.admits = container.label(SidecarLabel.admits) != nil
        self.status = container.status
        self.started = container.started
    }

    /// A sidecar that was just made, before the engine lists it.
    init(_ made: SidecarContainer) {
        self.id = made.name
        self.name = made.name
        self.project = made.project
        self.service = made.service
        self.replica = made.replica
        self.target = made.target
        self.namespace = made.namespace
        self.nodes = Set(made.gateways)
        self.ports = made.ports
        self.holder = made.record.holder
        self.since = made.record.since
        self.admits = true
        self.status = "running"
    }

    /// False while an earlier version of kl takes the service over: then it has been renamed for a moment.
    var isNamedAsMade: Bool {
        let identity = (project: self.project, service: self.service, replica: self.replica)
        return self.name == SidecarContainer.name(identity) || self.name == SidecarContainer.joined(identity)
    }

    /// It runs, or is about to run.
    var isAlive: Bool { ["created", "running", "paused", "restarting"].contains(self.status) }

    var isRunning: Bool { self.status == "running" }

    /// It has been made, and doesn't run yet.
    var isComing: Bool { ["created", "restarting"].contains(self.status) }
}

/// A sidecar's container to be made, with the privileges that it needs in the service's network and no others.
struct SidecarContainer: Equatable, Sendable {
    var project: String
    var service: String
    var replica: Int
    var target: String
    /// The path of the network namespace to join; nil: the target container is named instead.
    var namespace: String?
    var gateways: [String]
    var image: String
    var ports: [ServicePort]
    /// The record of the workspace that makes the sidecar.
    var record: InterceptRecord

    typealias Identity = (project: String, service: String, replica: Int)

    /// The scheme that earlier versions used for all names.
    static func joined(_ identity: Identity) -> String {
        "kl-\(identity.project)-\(identity.service)-\(identity.replica)"
    }

    /// Depends on project, service and replica only, since the name is the lock. If a project's name has a dash, service
    /// `c` of project `a-b` and service `b-c` of project `a` would get the same name; so a hash is appended for such
    /// projects.
    static func name(_ identity: Identity) -> String {
        let name = Self.joined(identity)
        guard identity.project.contains("-") else { return name }
        // FNV-1a. It only guards against accidental collisions: a user who may make containers can take any name anyway.
        let hash = "\(identity.project)/\(identity.service)".utf8.reduce(0x811C_9DC5 as UInt32) {
            ($0 ^ UInt32($1)) &* 0x0100_0193
        }
        let digits = String(hash, radix: 16)
        // After a dot, not a dash, so that it can't be mistaken for a replica's number.
        return "\(name).\(String(repeating: "0", count: 8 - digits.count))\(digits)"
    }

    static var defaultImage: String { "kl-sidecar:\(Version.number)" }

    var name: String { Self.name((project: self.project, service: self.service, replica: self.replica)) }

    private var labels: [(String, String)] {
        [
            (SidecarLabel.project, self.project),
            (SidecarLabel.service, self.service),
            (SidecarLabel.replica, "\(self.replica)"),
            (SidecarLabel.target, self.target),
            (SidecarLabel.ports, self.ports.map { "\($0)" }.joined(separator: ",")),
            (SidecarLabel.nodes, self.gateways.joined(separator: ",")),
            (SidecarLabel.holder, self.record.holder.label.printable),
            (SidecarLabel.key, self.record.holder.publicKey),
            (SidecarLabel.since, self.record.since.printable),
            (SidecarLabel.admits, "1"),
            (SidecarLabel.version, Version.number),
        ]
    }

    /// † A tunnel's buffers take at most 32 MiB, the program and its sockets about as much.
    private static let memory = "256m"
    /// One event loop thread per core, and threads that wait for files.
    private static let processes = "512"

    /// The client's arguments. The client stays attached until it is ended, which doesn't affect the container; so the
    /// sidecar's first line, or the reason why it can't run, is read without asking again.
    var arguments: [String] {
        var words = ["run", "--rm", "--sig-proxy=false", "--attach", "stdout", "--attach", "stderr", "--pull", "never"]
        words += ["--name", self.name, "--network", self.namespace.map { "ns:\($0)" } ?? "container:\(self.target)"]
        words += ["--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--read-only", "--security-opt", "no-new-privileges"]
        words += ["--memory", Self.memory, "--memory-swap", Self.memory, "--pids-limit", Self.processes]
        // The sidecar's first line holds its key, and must stay readable as long as it runs.
        words += ["--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=2"]
        for (name, value) in self.labels { words += ["--label", "\(name)=\(value)"] }
        words.append(self.image)
        return words + self.program.words
    }

    private var program: SidecarArguments {
        let anywhere = Endpoint(host: "0.0.0.0", port: 0)
        var program = SidecarArguments(
            listenTCP: anywhere,
            listenUDP: anywhere,
            divert: .redirect,
            servicePorts: self.ports.map { ServedPort($0, onThisHostAt: $0.number) }
        )
        program.peers = [Admission(self.record)]
        program.nodeAddresses = self.gateways
        // A user who may use the engine may do all that these flags allow.
        program.allowsTakeover = true
        program.allowsRefuse = true
        program.lingerMinutes = 10
        program.isEphemeral = true
        program.announcesIntercepts = true
        program.logFormat = .text
        return program
    }
}

extension Admission {
    init(_ record: InterceptRecord) {
        let holder = record.holder
        self.init(holder.publicKey, label: holder.label, holding: record.kind, Set(record.ports.map(\.port)))
    }
}
