import Environments
import InterceptModel

/// Says to people why a pod has no sidecar that runs.
struct SidecarTrouble {
    let pod: Pod
    let image: String
    /// The node's: `arm64`. Nil: it isn't known.
    var architecture: String?

    private var place: String {
        let node = self.pod.spec?.nodeName.map { " on node \($0.printable)" } ?? ""
        return "pod \(self.pod.name.printable)\(node)"
    }

    // MARK: While it waits

    /// Nil: it may still come by itself within the time that a start waits.
    func waiting(_ reason: String?, _ message: String?) -> Problem? {
        let said = message.map { ": \(Self.line($0))" } ?? ""
        switch reason {
        case _ where Self.isOfArchitecture(message): return self.wrongArchitecture
        // The node's container runtime is away for a moment.
        case _ where (message ?? "").contains("code = Unavailable"): return nil
        case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
            return Problem(
                .failed,
                "\(self.place) has no image '\(self.image.printable)'\(said)",
                self.advice(message ?? "")
            )
        case "CreateContainerConfigError", "RunContainerError", "StartError":
            return Problem(.failed, "the sidecar of \(self.place) can't be started\(said)")
        default: return nil
        }
    }

    private func advice(_ message: String) -> String {
        let small = message.lowercased()
        guard
            ["unauthorized", "denied", "authorization", "authentication", "forbidden"].contains(where: small.contains)
        else {
            return "Push it to a registry that the cluster reaches and name it by --sidecar-image, or load it:"
                + " agent/image --help"
        }
        let secrets = (self.pod.spec?.imagePullSecrets ?? []).compactMap(\.name).map(\.printable)
        let used =
            secrets.isEmpty
            ? "The pod has no pull secrets"
            : "The pod's own pull secrets were used (\(secrets.joined(separator: ", ")))"
        return "\(used): take a registry for which they are enough, and name the image by --sidecar-image."
    }

    /// It said nothing in time.
    func late(_ reason: String?, _ message: String?, _ seconds: Int) -> Problem {
        let said = message.map { ": \(Self.line($0))" } ?? ""
        let what: String
        switch reason {
        case nil where self.pod.spec?.nodeName == nil: what = "the pod isn't on a node yet"
        case nil: what = "its node's kubelet says nothing of it"
        case let reason?: what = "\(reason.printable)\(said)"
        }
        return Problem(
            .failed,
            "the sidecar of \(self.place) doesn't run within \(seconds) s: \(what)",
            "If its image is just being fetched, start again in a while: kubectl describe pod \(self.pod.name.shellQuoted)"
        )
    }

    // MARK: Once it has ended

    func ended(_ code: Int64?, _ reason: String?, _ message: String?) -> Problem {
        let last = message.map(Self.line) ?? ""
        if Self.isOfArchitecture(message) { return self.wrongArchitecture }
        let why = last.isEmpty ? reason?.printable ?? "it gives no reason" : last
        return Problem(
            .failed,
            "the sidecar of \(self.place) ended with code \(code.map { "\($0)" } ?? "?"): \(why)",
            reason == "OOMKilled" ? "The pod's memory limits are too small for one more program." : nil
        )
    }

    // MARK: Architecture

    /// `exec format error` is the kernel's; the others are containerd's and CRI-O's of an image that lacks the node's platform.
    private static func isOfArchitecture(_ message: String?) -> Bool {
        let words = ["exec format error", "no match for platform", "no image found in manifest list for architecture"]
        return message.map { message in words.contains { message.contains($0) } } ?? false
    }

    var wrongArchitecture: Problem {
        let node = self.pod.spec?.nodeName.map { " on node \($0.printable)" } ?? ""
        let what =
            self.architecture.map { "isn't for \($0.printable), the architecture of" }
            ?? "is for another architecture than"
        return Problem(
            .failed,
            "the image '\(self.image.printable)' \(what) pod \(self.pod.name.printable)\(node)",
            "Build it on a machine of that architecture, and name it by --sidecar-image: agent/image --help"
        )
    }

    func tooMany(_ count: Int) -> Problem {
        Problem(
            .failed,
            "\(self.place) has got \(count) sidecars within 10 min, and none that stays",
            "Look why: kubectl describe pod \(self.pod.name.shellQuoted)"
        )
    }

    // MARK: Where the API server refuses it

    /// Nil: for another reason than Pod Security.
    static func refusal(_ failure: APIFailure, _ namespace: String) -> Problem? {
        guard failure.code == 403, let start = failure.message.firstRange(of: "violates PodSecurity ") else {
            return nil
        }
        // `"baseline:latest"`
        let level = failure.message[start.upperBound...].split(separator: "\"").first ?? "?"
        return Problem(
            .failed,
            "Pod Security '\(String(level).printable)' of namespace '\(namespace.printable)' doesn't allow sidecars: they redirect"
                + " connections in the pod, which takes NET_ADMIN",
            "Ask who runs the cluster for a namespace that allows it; kl has no way without that yet."
        )
    }

    /// The last line of what a container said, as a clause. Reports aren't for people.
    static func line(_ text: String) -> String {
        let lines = text.split(whereSeparator: \.isNewline).map { String($0).printable }
            .filter { !$0.isEmpty && !$0.hasPrefix("{") }
        var last = lines.last ?? ""
        if last.hasPrefix("kl-sidecar: ") { last.removeFirst("kl-sidecar: ".count) }
        while last.hasSuffix(".") { last.removeLast() }
        return last
    }
}
