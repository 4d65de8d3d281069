import Environments
import HostSupport
import InterceptModel
import Noise
import Testing

@testable import DockerEnvironment

private let id = String(repeating: "a1", count: 32)
private let key = StaticKeyPair.generate().publicKey.base64

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

private func sidecar(
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

struct DockerArgumentsTests {
    private let container = SidecarContainer(
        project: "shop",
        service: "web",
        replica: 2,
        target: id,
        gateways: ["10.0.0.1", "fd00::1"],
        image: "kl-sidecar:1",
        ports: [.init(80), .init(443), .init(53, .udp)],
        holder: Member(label: "ada@thinkpad\n--privileged", publicKey: key),
        since: "2026-11-23T17:00:00Z"
    )

    @Test func aSidecarIsGrantedWhatItNeedsAndNothingElse() throws {
        let words = self.container.arguments
        let image = try #require(words.firstIndex(of: "kl-sidecar:1"))
        let flags = words[..<image].joined(separator: " ")
        for wanted in [
            "run --rm", "--name kl-shop-web-2", "--network container:\(id)", "--cap-drop ALL --cap-add NET_ADMIN",
            "--read-only", "--security-opt no-new-privileges", "--memory 256m --memory-swap 256m", "--pull never",
            "--log-driver json-file", "--label io.kl.target=\(id)", "--label io.kl.ports=80,443,53/udp",
            "--label io.kl.key=\(key)", "--label io.kl.holder=ada@thinkpad--privileged",
        ] {
            #expect(flags.contains(wanted), "\(wanted)")
        }
        #expect(!words.contains("--privileged") && !flags.contains("--volume") && !flags.contains("--restart"))
        #expect(
            words[words.index(after: image)...].joined(separator: " ")
                == "run --listen-tcp 0.0.0.0:0 --listen-udp 0.0.0.0:0 --divert redirect --peer \(key) --service-port 80 --service-port 443 --service-port 53/udp"
                + " --node-address 10.0.0.1 --node-address fd00::1 --allow-takeover --allow-refuse"
                + " --linger 10m --ephemeral --announce-intercepts"
                + " --log-format text"
        )
    }

    @Test func itIsFoundAgainAsItWasMade() {
        let made = DockerSidecar(self.container)
        #expect(made.isNamedAsMade && made.isAlive && made.isRunning)
        #expect(made.name == "kl-shop-web-2")
        #expect(made.nodes == ["10.0.0.1", "fd00::1"])
    }

    /// The name is the lock: of two services one could never be intercepted while the other is.
    @Test func noTwoServicesHaveOneSidecarsName() {
        let identities: [SidecarContainer.Identity] = [
            ("a", "b-c", 1), ("a-b", "c", 1), ("a", "b-c-1", 1), ("a-b-c", "1", 1), ("a-b", "c-1", 1), ("a", "b", 1),
            ("a-", "b", 1), ("a", "-b", 1), ("a-b", "c", 11), ("a.b", "c", 1), ("a", "b.c", 1), ("a_b", "c", 1),
        ]
        let names = identities.map { SidecarContainer.name($0) }
        #expect(Set(names).count == names.count, "\(names)")
        #expect(names.allSatisfy { DockerPlace.isSoundName($0) })
        #expect(SidecarContainer.name(("shop", "web-api", 1)) == "kl-shop-web-api-1")
    }

    /// With podman, whose `container:` would hold the other container.
    @Test func aNamespaceTakesTheContainersPlace() throws {
        var named = self.container
        named.namespace = "/run/netns/netns-1"
        #expect(named.arguments.contains("ns:/run/netns/netns-1") && !named.arguments.contains("container:\(id)"))
        var found = sidecar("web", 1)
        found.mode = "ns:/run/netns/netns-1"
        #expect(DockerSidecar(found)?.namespace == "/run/netns/netns-1")
        var target = DockerContainer(id: "x", name: "x", status: "running")
        for odd in ["", "netns", "/run/a b", "/run/$x", "/run/\u{1b}", "/" + String(repeating: "a", count: 256)] {
            target.sandbox = odd
            #expect(target.namespace == nil)
        }
    }

    @Test(
        arguments: [
            (
                #"{"Name":"default","Endpoints":{"docker":{"Host":"unix:///run/docker.sock"}}}"#, [:],
                ["docker", "--host", "unix:///run/docker.sock"]
            ),
            (
                #"{"Name":"far","Endpoints":{"docker":{"Host":"ssh://far"}}}"#,
                ["SSH_AUTH_SOCK": "/s", "DOCKER_CONFIG": "/c"],
                ["env", "SSH_AUTH_SOCK=/s", "docker", "--config", "/c", "--context", "far"]
            ),
            (
                #"{"Name":"default","Endpoints":{"docker":{"Host":"tcp://h:1"}}}"#,
                [
                    "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/k", "DOCKER_HOST": "tcp://h:1",
                    "SSH_AUTH_SOCK": "/s",
                ],
                ["env", "DOCKER_CERT_PATH=/k", "DOCKER_TLS_VERIFY=1", "docker", "--host", "tcp://h:1"]
            ),
        ] as [(String, [String: String], [String])]
    )
    func theEngineIsRememberedAsItWas(_ said: String, _ variables: [String: String], _ words: [String]) {
        #expect(DockerEngine(contextJSON: said, environment: variables)?.words == words)
    }

    @Test(arguments: [
        "", "[]", "{}", #"{"Name":"a\u001bb"}"#, #"{"Name":"default","Endpoints":{"docker":{"Host":"unix:// x"}}}"#,
    ])
    func aContextThatCannotBeReadIsNone(_ said: String) {
        #expect(DockerEngine(contextJSON: said, environment: [:]) == nil)
    }

    @Test func aPlaceIsAReferenceThatCanBeWrittenDown() throws {
        let place = DockerPlace(.project("shop"), engine: DockerEngine(host: "unix:///s"))
        #expect(place.reference.location == "project:shop@unix:///s")
        #expect(place.reference.docker == place)
        let network = DockerPlace(.network("shop"), engine: DockerEngine(context: "far"))
        #expect(network.reference.location == "network:shop@context:far")
        #expect(throws: Problem.self) {
            try DockerEnvironment(EnvironmentReference(kind: .docker, name: "shop", location: "x"))
        }
    }

    @Test func rowsSayWhoseAContainerIs() {
        let rows = """
            ["a1","shop","","shop_default","a"]
            ["b2","","shop","","b"]
            ["c3","blog","","n,m","c"]
            ["--x","shop","","","d"]
            ["d4","-odd","","","e"]
            not a row
            ["e5","shop"]
            """
        #expect(DockerRows.ids(DockerRows.rows(rows), .project("shop")) == ["a1", "b2"])
        #expect(DockerRows.ids(DockerRows.rows(rows), .network("n")) == ["b2", "c3"])
        #expect(DockerRows.projects(rows) == ["blog", "shop"])
    }
}

struct SidecarWordsTests {
    private let first = #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:4711","listen":{}}"#

    @Test func theLastWholeLineCounts() {
        let second = """
            {"ready":true,"publicKey":"\(key)","tcp":"[::]:4712","intercept":{"diverting":true,"key":"\(key)",\
            "generation":3,"ports":[80],"open":1,"total":2,"passed":0}}
            """
        #expect(SidecarWords.last(in: "noise\n\(self.first)\n") == SidecarWords(publicKey: key, port: 4_711))
        let last = SidecarWords.last(in: "\(self.first)\n\(second)\n\(self.first.dropLast(3))")
        #expect(last?.port == 4_712)
        #expect(last?.intercept?.diverting == true && last?.intercept?.ports == [80] && last?.intercept?.total == 2)
    }

    @Test(arguments: [
        "", "{}\n", #"{"ready":true}"# + "\n", #"{"ready":true,"publicKey":"AAAA","tcp":"0.0.0.0:1"}"# + "\n",
        #"{"ready":false,"publicKey":"\#(key)","tcp":"0.0.0.0:1"}"# + "\n",
        #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0"}"# + "\n",
        #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:0"}"# + "\n",
        #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:70000"}"# + "\n",
        String(repeating: "{", count: 100_000) + "\n",
        #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:1""#,
    ])
    func whatIsNoSuchLineIsNone(_ text: String) { #expect(SidecarWords.last(in: text) == nil) }

    @Test func aLineOfEndlessLengthIsNone() {
        let long =
            #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:1","x":"\#(String(repeating: "x", count: 2_000_000))"}"#
        #expect(SidecarWords.last(in: long + "\n") == nil)
    }
}

struct DockerErrorTests {
    private func failure(_ errors: String, code: Int32? = 125, isLate: Bool = false) -> String {
        let container = SidecarContainer(
            project: "shop",
            service: "web",
            replica: 1,
            target: id,
            gateways: [],
            image: "kl-e2e-nothing:1",
            ports: [.init(80)],
            holder: Member(label: "ada", publicKey: key),
            since: ""
        )
        let result = DockerClient.Result(code: code, output: "", errors: errors, isLate: isLate)
        let client = DockerClient(engine: DockerEngine(host: "unix:///s"))
        return DockerFailure.error(result, container, "web", client).description
    }

    @Test func withoutTheImageItSaysHowToMakeIt() {
        for said in [
            "docker: Error response from daemon: No such image: kl-e2e-nothing:1.\nSee 'docker run --help'.\n",
            "Unable to find image 'kl-e2e-nothing:1' locally\n",
        ] {
            let sentence = self.failure(said)
            #expect(sentence.contains("'kl-e2e-nothing:1'") && sentence.contains("agent/image --tag kl-e2e-nothing:1"))
        }
    }

    @Test func whatTheSidecarSaysIsPassedOn() {
        let said = "2026 info\nkl-sidecar: the capability NET_ADMIN lacks. Grant it.\n"
        #expect(
            self.failure(said, code: 1)
                == "the sidecar of 'web' didn't start: the capability NET_ADMIN lacks. Grant it."
        )
    }

    @Test func anEngineThatCannotBeReachedIsNamed() {
        #expect(
            self.failure("docker: Cannot connect to the Docker daemon at unix:///s. Is the docker daemon running?.\n")
                .hasPrefix("the Docker engine at unix:///s can't be reached. ")
        )
        #expect(
            self.failure("permission denied while trying to connect to the Docker daemon socket at unix:///s\n")
                .hasPrefix("you may not use the Docker engine's socket at unix:///s. ")
        )
        #expect(self.failure("weird \u{1b}[31mthing\n").hasPrefix("docker says: weird [31mthing. "))
        #expect(self.failure("", code: nil, isLate: true).contains("says nothing"))
    }

    @Test func aNameThatIsTakenIsTold() {
        let said = """
            docker: Error response from daemon: Conflict. The container name "/kl-shop-web-1" is already in use by container \
            "abc". You have to remove (or rename) that container to be able to reuse that name.
            """
        #expect(DockerFailure.isNameTaken(said))
        #expect(!DockerFailure.isNameTaken("No such image"))
    }

    @Test func whatAProgramSaysIsBoundedInTimeAndSize() {
        let flood = BoundedCommand.run("/bin/sh", ["-c", "yes"], within: 5_000, outputAtMost: 10_000)
        #expect(flood?.isTooLong == true && flood?.output.utf8.count == 10_000 && flood?.code == nil)
        let silent = BoundedCommand.run("/bin/sh", ["-c", "sleep 60"], within: 100, outputAtMost: 10)
        #expect(silent?.isLate == true)
        let apart = BoundedCommand.run(
            "/bin/sh",
            ["-c", "echo a; echo b >&2; exit 3"],
            within: 5_000,
            outputAtMost: 10
        )
        #expect(apart == .init(code: 3, output: "a\n", errors: "b\n"))
        let enough = BoundedCommand.run(
            "/bin/sh",
            ["-c", "echo a; echo b; sleep 60"],
            within: 5_000,
            outputAtMost: 100,
            until: { $0.contains("b\n") }
        )
        #expect(enough?.isEnough == true && enough?.isLate == false && enough?.output == "a\nb\n")
    }
}
