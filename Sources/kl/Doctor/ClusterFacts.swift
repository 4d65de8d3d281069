import Environments
import HostSupport
import InterceptModel
import KubernetesEnvironment

/// The cluster of the connected environment, and this user's rights there.
struct ClusterFacts {
    var place: KubernetesPlace
    var facts: KubernetesFacts
    /// The image that a start without `--sidecar-image` takes.
    var image: String?

    /// † In seconds. The record of who intercepts a service has times of other machines.
    private static let skewAtMost: Int64 = 60

    var checks: [Check] {
        guard let client = self.facts.clientVersion else {
            return [
                .failed(
                    "kubectl",
                    "no kubectl is in PATH, or it doesn't run",
                    "Install it: https://kubernetes.io/docs/tasks/tools/"
                )
            ]
        }
        let kubectl = Check.ok("kubectl", client)
        guard let server = self.facts.serverVersion else {
            let silent = Problem(.failed, "the API server doesn't answer", "Look whether it runs.")
            return [kubectl, .failed("cluster", self.facts.problem ?? silent)]
        }
        return [
            kubectl, .ok("cluster", "\(self.place.reference.name), \(server), at \(self.place.server)"), self.rights,
            self.podSecurity, self.clock, self.imageCheck,
        ]
    }

    private var rights: Check {
        guard let lacking = self.facts.lacking else {
            return .warning(
                "rights",
                "the cluster doesn't say what you may do",
                "If a start fails it says which right lacks."
            )
        }
        guard !lacking.isEmpty else { return .ok("rights", "all that intercepts need in \(self.place.namespace)") }
        return .failed(
            "rights",
            "in namespace \(self.place.namespace) you may not \(lacking.map(\.text).joined(separator: ", "))",
            "Ask who runs the cluster for it."
        )
    }

    private var podSecurity: Check {
        switch self.facts.podSecurity {
        case nil: return .ok("pod security", "not known: you may not look at the namespace")
        case "privileged"?: return .ok("pod security", "lets sidecars divert")
        case let level?:
            return .failed(
                "pod security",
                "the namespace enforces \(level.printable), which refuses sidecars the capability NET_ADMIN",
                "Ask for a namespace that enforces privileged."
            )
        }
    }

    private var clock: Check {
        guard let ahead = self.facts.secondsAhead else { return .ok("clocks", "the API server doesn't tell its time") }
        guard abs(ahead) > Self.skewAtMost else {
            return .ok("clocks", "the API server's and this machine's differ by at most \(Self.skewAtMost) s")
        }
        return .warning(
            "clocks",
            "the API server's is \(abs(ahead)) s \(ahead > 0 ? "ahead of" : "behind") this machine's",
            "Set this machine's clock by NTP: others see wrong times of your intercepts."
        )
    }

    private var imageCheck: Check {
        let image = self.image ?? self.place.image
        guard let image else {
            return .ok("sidecar image", "kl-sidecar:\(Version.number), which the nodes must have: no registry is named")
        }
        return .ok("sidecar image", "\(image), which the nodes have or pull")
    }
}

extension ClusterFacts {
    /// Nil: the connected environment isn't a cluster's.
    static func here(connected: EnvironmentReference?) async -> ClusterFacts? {
        guard let place = connected?.kubernetes else { return nil }
        let image = Spawn.ownEnvironment["KL_SIDECAR_IMAGE"].flatMap { $0.isEmpty ? nil : $0 }
        return ClusterFacts(place: place, facts: await KubernetesFacts.of(place), image: image)
    }
}
