import Environments
import Testing

@testable import KubernetesEnvironment

struct KubeconfigTests {
    private static let text = """
        {"kind":"Config","apiVersion":"v1","current-context":"dev",
         "clusters":[{"name":"k","cluster":{"server":"https://10.0.0.7:6443","certificate-authority-data":"DATA+OMITTED"}},
                     {"name":"empty","cluster":{}}],
         "users":[{"name":"u","user":{"exec":{"command":"aws","args":["eks"]}}},{"name":"t","user":{"token":"REDACTED"}}],
         "contexts":[{"name":"dev","context":{"cluster":"k","user":"u","namespace":"shop"}},
                     {"name":"arn:aws:eks:eu:1:cluster/x","context":{"cluster":"k","user":"t"}},
                     {"name":"odd","context":{"cluster":"k","user":"nobody","namespace":"Not A Name"}},
                     {"name":"lost","context":{"cluster":"gone","user":"u"}},
                     {"name":"bare","context":{"cluster":"empty"}},
                     {"name":"none"},
                     {"name":"e\\u001b[31mvil","context":{"cluster":"k"}}]}
        """

    @Test("Contexts that lead to a cluster are read, with what they say of it")
    func contexts() throws {
        let configuration = try #require(Kubeconfig(json: Self.text))
        #expect(configuration.current == "dev")
        #expect(configuration.contexts.map(\.name) == ["dev", "arn:aws:eks:eu:1:cluster/x", "odd"])
        let dev = try #require(configuration.context("dev"))
        #expect(dev.server == "https://10.0.0.7:6443" && dev.namespace == "shop" && dev.program == "aws")
        #expect(configuration.context("odd")?.namespace == nil && configuration.context("lost") == nil)
    }

    @Test("A configuration without anything is one, other text is none")
    func empty() throws {
        let text = #"{"kind":"Config","clusters":null,"contexts":null,"current-context":"","users":null}"#
        let configuration = try #require(Kubeconfig(json: text))
        #expect(configuration.current == nil && configuration.contexts.isEmpty)
        for text in ["", "null", "[]", "error: no such file"] { #expect(Kubeconfig(json: text) == nil) }
    }

    @Test("KUBECONFIG keeps its meaning in another folder")
    func files() {
        func files(_ value: String?) -> String? {
            Kubeconfig.files(value.map { ["KUBECONFIG": $0] } ?? [:], in: "/home/ada")
        }
        #expect(files(nil) == nil && files("") == nil)
        #expect(files("/a/b") == "/a/b")
        #expect(files("dev:/a/b::sub/c") == "/home/ada/dev:/a/b:/home/ada/sub/c")
    }

    @Test("What sidecars are made of and how they are dialled needs no further kubectl")
    func oneModel() {
        let place = KubernetesPlace(context: "dev", namespace: "one-model", server: "https://x")
        var other = place
        (other.image, other.way, other.nodeAddress) = ("kl-sidecar:1", .nodePort, "192.0.2.7")
        #expect(KubernetesModel.of(place) === KubernetesModel.of(other))
        other.kubeconfig = "/a"
        #expect(KubernetesModel.of(place) !== KubernetesModel.of(other))
    }

    @Test("kubectl is told the place, whatever the shell's variables say")
    func words() {
        var place = KubernetesPlace(context: "dev", namespace: "shop", server: "https://x")
        #expect(KubectlWords(place: place).words == ["kubectl", "--context=dev", "--namespace=shop"])
        #expect(KubectlWords(place: place).variables(["KUBECONFIG": "other", "A": "1"]) == ["A": "1"])
        place.kubeconfig = "/a:/b"
        #expect(KubectlWords(place: place).variables(["KUBECONFIG": "other"]) == ["KUBECONFIG": "/a:/b"])
        #expect(
            KubectlWords(place: place).trial == "KUBECONFIG=/a:/b kubectl --context dev --namespace shop get pods"
        )
    }
}
