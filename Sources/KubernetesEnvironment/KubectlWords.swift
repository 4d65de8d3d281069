import Environments
import HostSupport
import InterceptModel

/// How `kubectl` is told which cluster is meant.
struct KubectlWords: Sendable {
    let place: KubernetesPlace

    /// The command line up to the subcommand, for a program that starts it with whatever variables there are. `KUBECONFIG` may
    /// be a list of files, which the flag `--kubeconfig` doesn't take.
    var withVariable: [String] {
        let kubeconfig = self.place.kubeconfig.map { ["KUBECONFIG=\($0)"] } ?? ["-u", "KUBECONFIG"]
        return ["env"] + kubeconfig + self.words
    }

    /// The same without the variable, for a program that is started with `variables(_:)`.
    var words: [String] { ["kubectl", "--context=\(self.place.context)", "--namespace=\(self.place.namespace)"] }

    /// The shell's variables with the one that names the user's files as it was when they connected.
    func variables(_ shell: [String: String]) -> [String: String] {
        var variables = shell
        variables["KUBECONFIG"] = self.place.kubeconfig
        return variables
    }

    /// What a user types to see whether a login works.
    var trial: String {
        let kubeconfig = self.place.kubeconfig.map { "KUBECONFIG=\($0.shellQuoted) " } ?? ""
        let namespace = self.place.namespace.shellQuoted
        return "\(kubeconfig)kubectl --context \(self.place.context.shellQuoted) --namespace \(namespace) get pods"
    }
}
