import Environments
import InterceptModel
import Noise
import Testing

@testable import DockerEnvironment

let id = String(repeating: "a1", count: 32)
let key = StaticKeyPair.generate().publicKey.base64

private func line(
    id: String = id,
    name: String = "/shop-web-1",
    labels: String = #"{"com.docker.compose.project":"shop","com.docker.compose.service":"web"}"#,
    mode: String = "shop_default",
    status: String = "running",
    health: String = "null",
    started: String = "2026-11-23T17:00:00.5Z",
    rest: String = #""ports":{},"networks":{}"#
) -> String {
    """
    {"id":"\(id)","name":"\(name)","image":"i","labels":\(labels),"exposed":{"80/tcp":{},"53/udp":{}},"mode":"\(mode)",\
    "status":"\(status)","exit":3,"started":"\(started)","health":\(health),\(rest)}
    """
}

private func container(
    _ service: String,
    _ number: Int,
    mode: String = "shop_default",
    status: String = "running",
    health: String = "null"
) -> DockerContainer {
    let labels = """
        {"com.docker.compose.project":"shop","com.docker.compose.service":"\(service)",\
        "com.docker.compose.container-number":"\(number)"}
        """
    let text = line(
        id: "\(service)\(number)",
        name: "/shop-\(service)-\(number)",
        labels: labels,
        mode: mode,
        status: status,
        health: health
    )
    return DockerContainer.parse(text).first ?? DockerContainer(id: "broken", name: "broken", status: "broken")
}

func sidecar(
    _ service: String,
    _ number: Int,
    key: String = key,
    name: String? = nil,
    status: String = "running",
    holder: String = "ada@thinkpad"
) -> DockerContainer {
    var made = DockerContainer(id: "s\(service)\(number)", name: name ?? "kl-shop-\(service)-\(number)", status: status)
    made.mode = "container:\(service)\(number)"
    made.labels = [
        SidecarLabel.project: "shop", SidecarLabel.service: service, SidecarLabel.replica: "\(number)",
        SidecarLabel.target: "\(service)\(number)", SidecarLabel.ports: "80,443", SidecarLabel.holder: holder,
        SidecarLabel.key: key, SidecarLabel.since: "2026-11-23T17:00:00Z",
    ]
    return made
}

struct DockerContainerTests {
    @Test func whatTheEngineTellsIsRead() throws {
        let rest = """
            "ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],"9090/tcp":null},\
            "networks":{"b":{"IPAddress":"10.0.0.2","Gateway":"10.0.0.1","GlobalIPv6Address":"fd00::2","IPv6Gateway":"fd00::1"},\
            "a":{"IPAddress":"","Gateway":""}}
            """
        let found = try #require(DockerContainer.parse(line(rest: rest)).first)
        #expect(found.name == "shop-web-1")
        #expect(found.servicePorts.map { "\($0)" } == ["53/udp", "80", "9090"])
        #expect(found.places == ["0.0.0.0:8080"])
        #expect(found.publications == [.init(host: 8080, port: .init(80))])
        #expect(found.address == "10.0.0.2")
        #expect(found.gateways == ["10.0.0.1", "fd00::1"])
        #expect(found.hasOwnNetwork)
    }

    @Test(arguments: [
        "", "{", "[]", #"{"id":"x"}"#, line(name: "/a b"), line(name: "--privileged"), line(id: "-f"), line(id: ""),
        line(rest: #""ports":7,"networks":{}"#), String(repeating: "[", count: 100_000),
        line(id: "a\\u001b[31m"),
    ])
    func whatCannotBeUnderstoodIsLeftOutAndHidesNoOther(_ odd: String) {
        let found = DockerContainer.parse("\(odd)\n\(line())\n")
        #expect(found.map(\.name) == ["shop-web-1"])
    }

    @Test func nullsAreNothing() {
        let rest = #""ports":null,"networks":null"#
        let found = DockerContainer.parse(line(labels: "null", rest: rest)).first
        #expect(found?.labels == nil && found?.address == nil && found?.gateways == [])
    }

    @Test(
        arguments: [
            ("80/tcp", "80"), ("80", "80"), ("80/udp", "80/udp"), ("80/sctp", nil), ("0/tcp", nil), ("65536/tcp", nil),
            ("-1/tcp", nil), ("a/tcp", nil),
            ("80/tcp/x", nil), ("80/udp/tcp", nil), ("", nil),
        ] as [(String, String?)]
    )
    func ports(_ text: String, _ port: String?) {
        #expect(DockerContainer.port(text).map { "\($0)" } == port)
    }

    @Test func addressesAreNothingElse() {
        let rest = #""ports":{},"networks":{"a":{"IPAddress":"1.2.3.4 --privileged","Gateway":"\u001b[1m"}}"#
        let found = DockerContainer.parse(line(rest: rest)).first
        #expect(found?.address == nil && found?.gateways == [])
    }

    @Test(arguments: [
        ("2026-11-23T17:00:01Z", "2026-11-23T17:00:00.999999999Z", true),
        ("2026-11-23T17:00:00.5Z", "2026-11-23T17:00:00.49Z", true),
        ("2026-11-23T17:00:00.5Z", "2026-11-23T17:00:00.500Z", false),
        ("2026-11-23T17:00:00Z", "2026-11-23T17:00:00.1Z", false), ("", "", false),
    ])
    func times(_ one: String, _ two: String, _ isLater: Bool) {
        #expect(DockerContainer.isLater(one, than: two) == isLater)
    }
}

struct DockerProjectTests {
    private func project(_ containers: DockerContainer...) -> DockerProject {
        DockerProject(.project("shop"), containers)
    }

    @Test func servicesHaveTheirReplicas() {
        let found = self.project(container("web", 2), container("api", 1), container("web", 1), sidecar("web", 1))
        #expect(found.services.map(\.name) == ["api", "web"])
        #expect(found.service("web")?.replicas.map(\.number) == [1, 2])
        #expect(found.service("web")?.service.state == .running)
        #expect(found.sidecars.map(\.name) == ["kl-shop-web-1"])
    }

    @Test func othersContainersAreNotOurs() {
        var once = container("web", 1)
        once.labels?["com.docker.compose.oneoff"] = "True"
        var odd = container("web", 1)
        odd.labels?["com.docker.compose.service"] = "--name\u{1b}[31m"
        var other = container("web", 1)
        other.labels?["com.docker.compose.project"] = "blog"
        #expect(self.project(once, odd, other).services.isEmpty)
    }

    @Test func eachNumberIsOneReplicas() {
        var double = container("web", 1)
        double.id = "other"
        double.name = "other"
        var without = container("web", 1)
        without.id = "third"
        without.labels?["com.docker.compose.container-number"] = "-7"
        let replicas = self.project(double, without, container("web", 1)).service("web")?.replicas
        #expect(replicas?.map(\.number) == [1, 2, 3])
    }

    @Test func aNetworkHasWhatIsAttachedToIt() {
        var plain = DockerContainer(id: "p", name: "plain", status: "running")
        plain.networks = ["n": .init(IPAddress: "10.0.0.2")]
        var web = container("web", 1)
        web.networks = ["n": .init()]
        var blog = web
        blog.id = "blog"
        blog.labels?["com.docker.compose.project"] = "blog"
        let found = DockerProject(.network("n"), [plain, web, blog, container("api", 1)])
        #expect(found.services.map(\.name) == ["blog.web", "plain", "shop.web"])
        #expect(found.service("plain")?.project == "n")
    }

    @Test(
        arguments: [
            ("running", "null", Service.State.running, nil),
            ("running", #""healthy""#, .running, nil),
            ("running", #""starting""#, .starting, "its health check hasn't passed yet"),
            ("running", #""unhealthy""#, .running, "unhealthy: its health check fails"),
            ("restarting", "null", .restarting, "exited with code 3"),
            ("exited", "null", .stopped, "exited with code 3"),
            ("created", "null", .stopped, "was never started"), ("paused", "null", .stopped, "is paused"),
            ("dead\\u001b", "null", .stopped, "is dead"),
        ] as [(String, String, Service.State, String?)]
    )
    func states(_ status: String, _ health: String, _ state: Service.State, _ reason: String?) {
        let service = self.project(container("web", 1, status: status, health: health)).service("web")?.service
        #expect(service?.state == state)
        #expect(service?.reason == reason)
        #expect((service?.refusal == nil) == (status == "running"))
    }

    @Test(arguments: [
        ("host", "network_mode: host"), ("none", "network_mode: none"),
        ("container:api1", "Intercept that one: kl intercept start api"),
        ("container:gone", "a container that is gone"), ("container:gone", "--force-recreate web"),
        ("container:blog1", "kl env connect --docker blog"), ("container:plain1", "container 'plain-1'"),
        ("ns:/run/netns/x", "by its path"),
    ])
    func whatHasNoNetworkOfItsOwnIsExplained(_ mode: String, _ words: String) {
        let rows = DockerRows.rows(
            """
            ["blog1","blog","","n","/blog-1/x,blog-1"]
            ["plain1","","","n","plain-1"]
            """
        )
        let containers = [container("web", 1, mode: mode), container("api", 1)]
        let refusal = DockerProject(.project("shop"), containers, rows).service("web")?.service.refusal
        #expect(refusal?.contains(words) == true)
        #expect(refusal?.hasPrefix("'web' ") == true)
    }

    /// The network's owner has one name, and the service that is to be named another.
    @Test func inANetworkTheServiceToInterceptIsNamedAsItIsListed() {
        var web = container("web", 1)
        web.networks = ["n": .init()]
        var other = web
        other.id = "blog-web"
        other.labels?["com.docker.compose.project"] = "blog"
        var beside = container("beside", 1, mode: "container:web1")
        beside.networks = ["n": .init()]
        let refusal = DockerProject(.network("n"), [web, other, beside]).service("beside")?.refusal
        #expect(refusal?.contains("kl intercept start shop.web") == true)
    }

    @Test func aServiceIsKnownByItsContainers() {
        let long = String(repeating: "0a", count: 32)
        var web = container("web", 1)
        web.id = long
        let service = self.project(web).service("web")?.service
        for name in ["shop-web-1", long, String(long.prefix(12))] { #expect(service?.hasContainer(name) == true) }
        for name in ["shop-web", "web", String(long.prefix(11)), "", "shop-web-1x"] {
            #expect(service?.hasContainer(name) == false)
        }
    }

    @Test func oneReplicaThatRunsIsEnough() {
        let service = self.project(container("web", 1, status: "exited"), container("web", 2)).service("web")
        #expect(service?.refusal == nil)
        #expect(service?.usable.map(\.number) == [2])
        #expect(service?.service.reason == "1 of 2 replicas runs: one exited with code 3")
    }

    @Test func theFirstReplicasSidecarIsTheRecord() {
        let bob = StaticKeyPair.generate().publicKey.base64
        let found = self.project(
            container("web", 1),
            container("web", 2),
            sidecar("web", 2, key: bob),
            sidecar("web", 1, key: bob, name: "kl-shop-web-1-taken-7"),
            sidecar("web", 1)
        )
        #expect(found.record(of: "web")?.holder.publicKey == key)
        #expect(found.interceptedServices == ["web"])
        #expect(self.project(container("web", 1), sidecar("web", 1, status: "exited")).record(of: "web") == nil)
    }

    @Test func ofAServiceThatIsGoneSidecarsAreLeft() {
        let found = self.project(sidecar("web", 1))
        #expect(found.interceptedServices == ["web"])
        #expect(found.sidecars(of: "web").count == 1)
    }

    @Test func labelsThatNobodyOfUsWroteMakeNoSidecar() {
        for (label, value) in [
            (SidecarLabel.key, "short"), (SidecarLabel.replica, "0"), (SidecarLabel.replica, "x"),
            (SidecarLabel.service, "a b"), (SidecarLabel.project, ""), (SidecarLabel.target, "-x"),
        ] {
            var odd = sidecar("web", 1)
            odd.labels?[label] = value
            #expect(DockerSidecar(odd) == nil)
        }
        // As an image may bring them.
        for mode in [nil, "shop_default", "host", "container:", "container:db1", "ns:", "ns:x"] {
            var odd = sidecar("web", 1)
            odd.mode = mode
            #expect(DockerSidecar(odd) == nil)
            #expect(self.project(container("web", 1), odd).record(of: "web") == nil)
        }
        #expect(DockerSidecar(sidecar("web", 1, holder: "a\u{1b}[31m\u{202e}b"))?.holder.label == "a[31mb")
    }
}
