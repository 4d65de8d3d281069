import CommandText
import Environments
import InterceptModel
import SidecarInterface

/// A sidecar in a pod: an ephemeral container that some workspace's `kl` has added. What is in a pod's specification stays there
/// for the pod's life, and a container that has ended never runs again.
struct PodSidecar: Equatable, Sendable {
    enum Life: Equatable, Sendable {
        /// It doesn't run yet. Without a reason: the kubelet hasn't said anything of it.
        case waiting(reason: String?, message: String?)
        case running
        case ended(code: Int64?, reason: String?, message: String?)

        var isEnded: Bool { if case .ended = self { true } else { false } }
    }

    var name: String
    var image: String?
    /// The ports that it can divert.
    var ports: Set<ServicePort>
    /// How long it accepts the key of a workspace that has left. Nil: it doesn't say.
    var linger: Duration?
    var life: Life
    /// RFC 3339, in UTC, with whole seconds; nil: it hasn't been started.
    fileprivate var started: String?

    /// Eight random digits follow: a name can't be used again in the same pod.
    static let namePrefix = "kl-sidecar-"
    /// † Far more than a pod gets in its life.
    fileprivate static let lookedAtMost = 256

    static func newName() -> String {
        let digits = String(UInt32.random(in: 0 ... .max), radix: 16)
        return Self.namePrefix + String(repeating: "0", count: 8 - digits.count) + digits
    }

    static var defaultImage: String { "kl-sidecar:\(Version.number)" }

    fileprivate init(_ container: Pod.EphemeralContainer, _ status: Pod.ContainerStatus?) {
        self.name = container.name
        self.image = container.image
        self.ports = Self.ports(container.args ?? [])
        self.linger = Self.linger(container.args ?? [])
        if let ended = status?.state?.terminated ?? status?.lastState?.terminated, status?.state?.running == nil {
            self.life = .ended(code: ended.exitCode, reason: ended.reason, message: ended.message)
            self.started = ended.startedAt ?? ""
        } else if status?.state?.running != nil {
            self.life = .running
            self.started = status?.state?.running?.startedAt ?? ""
        } else {
            let waiting = status?.state?.waiting
            self.life = .waiting(reason: waiting?.reason, message: waiting?.message)
        }
    }

    private static func ports(_ words: [String]) -> Set<ServicePort> {
        var ports: Set<ServicePort> = []
        for (flag, value) in zip(words, words.dropFirst()) where flag == "--service-port" {
            if let served = try? ServedPort(value) { ports.insert(served.port) }
        }
        return ports
    }

    private static func linger(_ words: [String]) -> Duration? {
        zip(words, words.dropFirst()).first { $0.0 == "--linger" }
            .flatMap { try? Flags.milliseconds($0.1) }.map { .milliseconds($0) }
    }

    func serves(_ wanted: Set<ServicePort>) -> Bool { wanted.isSubset(of: self.ports) }
}

extension Pod {
    /// The oldest first. The specification has them in any order: a strategic merge patch adds in front (server 1.36.2).
    var sidecars: [PodSidecar] {
        let all = (self.spec?.ephemeralContainers ?? [])
            .filter { $0.name.hasPrefix(PodSidecar.namePrefix) }
            .map { PodSidecar($0, self.status(ofEphemeral: $0.name)) }
        return all.enumerated()
            .sorted { one, other in
                switch (one.element.started, other.element.started) {
                case (let first?, let second?) where first != second: first < second
                case (.some, nil): true
                case (nil, .some): false
                default: one.offset > other.offset
                }
            }
            .map(\.element)
            .suffix(PodSidecar.lookedAtMost)
    }

    /// Where its sidecar can be dialled, from where pods can be reached.
    var address: String? {
        [self.status?.podIP, self.status?.podIPs?.first?.ip].compactMap(\.self).first { !$0.isEmpty }
    }
}

/// A sidecar to be added to a pod, with the privileges that it needs in the pod's network and no others.
struct SidecarInjection: Sendable {
    /// † In seconds. Pods of jobs have grace periods of a year; a sidecar isn't needed for so long.
    static let graceAtMost = 86_400

    let name: String
    let image: String
    let program: SidecarArguments

    /// The command line.
    struct Serving: Sendable {
        /// What it can divert, now and for later intercepts.
        var ports: Set<ServicePort>
        var peer: Admission
        /// The node's own addresses.
        var nodeAddresses: [String]
        var isIPv6: Bool
        var graceSeconds: Int?
    }

    init(_ serving: Serving, image: String, name: String = PodSidecar.newName()) {
        self.name = name
        self.image = image
        let anywhere = Endpoint(host: serving.isIPv6 ? "::" : "0.0.0.0", port: 0)
        var program = SidecarArguments(
            listenTCP: anywhere,
            listenUDP: anywhere,
            divert: .redirect,
            servicePorts: serving.ports.sorted().prefix(ServicePort.maxCount).map {
                ServedPort($0, onThisHostAt: $0.number)
            }
        )
        program.peers = [serving.peer]
        // Probes come from the pods' gateway, and on some networks from the node's own address.
        program.nodeAddresses = serving.nodeAddresses + ["gateway"]
        // Whoever may run programs in the pod may do all that these flags allow.
        program.allowsTakeover = true
        program.allowsRefuse = true
        program.lingerMinutes = 10
        program.isEphemeral = true
        program.idleMinutes = 30
        program.graceSeconds = serving.graceSeconds
        // † Where all of a pod's containers have limits of memory, it counts in their sum. One tunnel may have 3 MiB on the way in each
        // direction with it.
        program.memoryMiB = 16
        program.announcesIntercepts = true
        program.logFormat = .text
        self.program = program
    }

    /// A strategic merge patch of `pods/NAME/ephemeralcontainers`: it adds to the list, by name.
    var patch: some Encodable & Sendable { Patch(spec: .init(ephemeralContainers: [Container(self)])) }

    private struct Patch: Encodable, Sendable {
        struct Spec: Encodable, Sendable { let ephemeralContainers: [Container] }
        let spec: Spec
    }

    private struct Container: Encodable, Sendable {
        let name: String
        let image: String
        /// The cluster may have the image by other ways than a registry.
        let imagePullPolicy = "IfNotPresent"
        let args: [String]
        let securityContext = SecurityContext()
        /// A sidecar that can't go on says why in its last line.
        let terminationMessagePolicy = "FallbackToLogsOnError"

        init(_ injection: SidecarInjection) {
            self.name = injection.name
            self.image = injection.image
            self.args = injection.program.words
        }
    }

    /// To redirect in a pod's network takes NET_ADMIN, which only root has. `runAsNonRoot` and the user are the container's own, since
    /// the pod may have set others.
    private struct SecurityContext: Encodable, Sendable {
        struct Capabilities: Encodable, Sendable {
            let drop = ["ALL"]
            let add = ["NET_ADMIN"]
        }
        struct SeccompProfile: Encodable, Sendable { let type = "RuntimeDefault" }

        let runAsUser = 0
        let runAsGroup = 0
        let runAsNonRoot = false
        let allowPrivilegeEscalation = false
        let readOnlyRootFilesystem = true
        let capabilities = Capabilities()
        let seccompProfile = SeccompProfile()
    }
}
