import CommandText
import Environments
import HostSupport
import InterceptModel
import SidecarInterface
import Testing

@testable import DockerEnvironment

struct DockerArgumentsTests {
    private let container = SidecarContainer(
        project: "shop",
        service: "web",
        replica: 2,
        target: id,
        gateways: ["10.0.0.1", "fd00::1"],
        image: "kl-sidecar:1",
        ports: [.init(80), .init(443), .init(53, .udp)],
        record: InterceptRecord(
            service: "web",
            holder: Member(label: "ada@thinkpad\n--privileged", publicKey: key),
            since: "2026-11-23T17:00:00Z",
            ports: [.init(service: 80, target: ""), .init(service: 53, transport: .udp, target: "")]
        )
    )

    @Test func aSidecarIsGrantedWhatItNeedsAndNothingElse() throws {
        let words = self.container.arguments
        let image = try #require(words.firstIndex(of: "kl-sidecar:1"))
        let flags = words[..<image].joined(separator: " ")
        for wanted in [
            "run --rm", "--name kl-shop-web-2", "--network container:\(id)", "--cap-drop ALL --cap-add NET_ADMIN",
            "--read-only", "--security-opt no-new-privileges", "--memory 256m --memory-swap 256m", "--pull never",
            "--log-driver json-file", "--label io.kl.target=\(id)", "--label io.kl.ports=80,443,53/udp",
            "--label io.kl.key=\(key)", "--label io.kl.holder=ada@thinkpad--privileged", "--label io.kl.admits=1",
        ] {
            #expect(flags.contains(wanted), "\(wanted)")
        }
        #expect(!words.contains("--privileged") && !flags.contains("--volume") && !flags.contains("--restart"))
        let program = [
            "run --listen-tcp 0.0.0.0:0 --listen-udp 0.0.0.0:0 --divert redirect",
            "--peer \(key) label=ada@thinkpad--privileged claim=intercept:53/udp,80",
            "--service-port 80 --service-port 443 --service-port 53/udp",
            "--node-address 10.0.0.1 --node-address fd00::1 --allow-takeover --allow-refuse",
            "--linger 10m --ephemeral --announce-intercepts --log-format text",
        ]
        #expect(words[words.index(after: image)...].joined(separator: " ") == program.joined(separator: " "))
    }

    @Test func whoWantsCopiesAloneMayNothingElse() {
        var mirror = self.container
        mirror.record.kind = .mirror
        let peer = "\(key) label=ada@thinkpad--privileged may=mirror claim=mirror:53/udp,80"
        #expect(mirror.arguments.contains(peer))
        let words = AdmissionExchange.admit(Admission(mirror.record), force: false)
        #expect(
            words == ["admit", key, "--label=ada@thinkpad--privileged", "--may=mirror", "--claim=mirror:53/udp,80"]
        )
    }

    @Test func itIsFoundAgainAsItWasMade() {
        let made = DockerSidecar(self.container)
        #expect(made.isNamedAsMade && made.isAlive && made.isRunning && made.admits)
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
            record: InterceptRecord(
                service: "web",
                holder: Member(label: "ada", publicKey: key),
                since: "",
                ports: []
            )
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

    @Test func anImageOfAnEarlierVersionIsNamed() {
        let said =
            "kl-sidecar: The value 'K label=ada' is invalid for '--peer <key>': 'K label=ada' isn't a public key.\n"
        let sentence = self.failure(said, code: 2)
        #expect(sentence.contains("'kl-e2e-nothing:1' holds a sidecar of an earlier version"))
        #expect(sentence.contains("agent/image --tag kl-e2e-nothing:1"))
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
