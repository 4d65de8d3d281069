import Environments
import FoundationEssentials
import InterceptModel
import SidecarInterface
import Testing

@testable import KubernetesEnvironment

private let ada = "WvbBB+ks9eg4tiROBmJxPDHUV8KbPvAYJWZdZ1JIlDo="

/// A pod as an API server describes it.
func madePod(
    _ containers: [(name: String, state: String)] = [],
    ports: String = "8080",
    image: String = "kl-sidecar:1",
    ip: String = "10.244.0.7",
    linger: String? = nil,
    more: String = "",
    deleted: Bool = false
) throws -> Pod {
    let lingers = linger.map { #","--linger","\#($0)""# } ?? ""
    let entries = containers.map { container in
        #"{"name":"\#(container.name)","image":"\#(image)","args":["run","--service-port","\#(ports)"\#(lingers),"--ephemeral"]}"#
    }
    let states = containers.filter { !$0.state.isEmpty }.map { #"{"name":"\#($0.name)","state":\#($0.state)}"# }
    let deletion = deleted ? #","deletionTimestamp":"2026-12-01T00:00:00Z""# : ""
    return try JSONDecoder().decode(
        Pod.self,
        from: Data(
            """
            {"metadata":{"name":"web-1","uid":"u1","labels":{"app":"web"}\(deletion)},
             "spec":{"nodeName":"n1","containers":[{"name":"app","ports":[{"name":"http","containerPort":8080}]}],
                     "ephemeralContainers":[\(entries.joined(separator: ","))]\(more)},
             "status":{"phase":"Running","podIP":"\(ip)","ephemeralContainerStatuses":[\(states.joined(separator: ","))]}}
            """.utf8
        )
    )
}

struct PodPlanTests {
    private let running = #"{"running":{"startedAt":"2026-12-01T00:00:00Z"}}"#
    private let now = ContinuousClock.now
    private let words = SidecarWords(publicKey: ada, port: 4_711)

    private func waiting(_ reason: String) -> String { #"{"waiting":{"reason":"\#(reason)","message":"m"}}"# }
    private func ended(_ code: Int, _ message: String = "") -> String {
        #"{"terminated":{"exitCode":\#(code),"reason":"Error","message":"\#(message)"}}"#
    }

    private func plan(
        _ pod: Pod,
        ports: Set<ServicePort> = [.init(8_080)],
        isImageWanted: Bool = false,
        kind: HoldingKind = .intercept
    ) -> PodPlan {
        PodPlan(
            pod: pod,
            ports: ports,
            key: "k",
            kind: kind,
            image: "kl-sidecar:1",
            isImageWanted: isImageWanted
        )
    }

    private func known(_ name: String, admits: String = "k", injectedAgo: Duration? = nil) -> PodMemory {
        var memory = PodMemory()
        memory.words[name] = self.words
        memory.admits[name] = [admits: .init(.intercept)]
        memory.address[name] = "10.244.0.7"
        if let injectedAgo { memory.injections = [.init(name: name, at: self.now - injectedAgo)] }
        return memory
    }

    private func added(_ name: String = "kl-sidecar-1", ago: Duration) -> PodMemory {
        var memory = PodMemory()
        memory.injections = [.init(name: name, at: self.now - ago)]
        memory.admits[name] = ["k": .init(.intercept)]
        return memory
    }

    private func step(_ pod: Pod, _ memory: PodMemory = PodMemory(), isImageWanted: Bool = false) -> PodPlan.Step {
        self.plan(pod, isImageWanted: isImageWanted).step(memory, at: self.now)
    }

    private func name(_ step: PodPlan.Step) -> String {
        switch step {
        case .leave: "leave"
        case .keep(let sidecar, _): "keep \(sidecar.name.suffix(1))"
        case .read(let sidecar): "read \(sidecar.name.suffix(1))"
        case .expose(let sidecar, _): "expose \(sidecar.name.suffix(1))"
        case .admit(let sidecar): "admit \(sidecar.name.suffix(1))"
        case .replace(let sidecar): "replace \(sidecar.name.suffix(1))"
        case .inject: "inject"
        case .wait: "wait"
        case .fail: "fail"
        }
    }

    @Test("From nothing to a sidecar that is kept")
    func wayUp() throws {
        #expect(self.step(try madePod()) == .inject)
        // What is read of the pod may be older than the injection.
        #expect(self.name(self.step(try madePod(), self.added(ago: .seconds(1)))) == "wait")
        let silent = try madePod([("kl-sidecar-1", "")])
        #expect(self.name(self.step(silent, self.added(ago: .seconds(1)))) == "wait")
        let creating = try madePod([("kl-sidecar-1", self.waiting("ContainerCreating"))])
        #expect(self.step(creating, self.added(ago: .seconds(1))) == .wait("ContainerCreating"))
        let pod = try madePod([("kl-sidecar-1", self.running)])
        #expect(self.name(self.step(pod, self.added(ago: .seconds(1)))) == "read 1")
        #expect(self.name(self.step(pod, self.known("kl-sidecar-1"))) == "keep 1")
        #expect(self.name(self.step(pod)) == "admit 1")
        #expect(self.name(self.step(pod, self.known("kl-sidecar-1", admits: "other"))) == "admit 1")
    }

    @Test("Whose key was forgotten is admitted again to the sidecar that idles")
    func backAgain() throws {
        let pod = try madePod([("kl-sidecar-1", self.running)])
        var memory = self.known("kl-sidecar-1", injectedAgo: .seconds(60))
        memory.admits["kl-sidecar-1"] = [:]
        #expect(self.name(self.step(pod, memory)) == "admit 1")
    }

    @Test("Who has left isn't admitted anew while the sidecar keeps the key")
    func backSoon() throws {
        let pod = try madePod([("kl-sidecar-1", self.running)], linger: "10m")
        var memory = self.known("kl-sidecar-1")
        memory.left("k", pod.sidecars, at: self.now - .seconds(500))
        #expect(self.name(self.step(pod, memory)) == "keep 1")
        // For something else than before.
        #expect(self.name(self.plan(pod, kind: .mirror).step(memory, at: self.now)) == "admit 1")
        #expect(self.name(self.plan(pod).step(memory, at: self.now + .seconds(60))) == "admit 1")
        // What is there again has left at another time, or not at all.
        memory.isBack("k", at: "kl-sidecar-1")
        #expect(self.name(self.plan(pod).step(memory, at: self.now + .seconds(60))) == "keep 1")
        #expect(memory.admits["kl-sidecar-1"]?["k"]?.isFromBefore == true)
        // A sidecar that doesn't say how long it keeps keys.
        let silent = try madePod([("kl-sidecar-1", self.running)])
        memory.left("k", silent.sidecars, at: self.now)
        #expect(self.name(self.step(silent, memory)) == "admit 1")
    }

    @Test("A Service leads to a sidecar before it is kept")
    func exposed() throws {
        let pod = try madePod([("kl-sidecar-1", self.running)])
        var plan = self.plan(pod)
        plan.isReachedByService = true
        #expect(self.name(plan.step(PodMemory(), at: self.now)) == "admit 1")
        var memory = self.known("kl-sidecar-1")
        #expect(self.name(plan.step(memory, at: self.now)) == "expose 1")
        memory.isBusy = true
        #expect(self.name(plan.step(memory, at: self.now)) == "wait")
        // Another workspace's Service may end at any time.
        memory.places = ["kl-sidecar-1": ["other": .init(tcp: "192.0.2.1:30100")]]
        memory.isBusy = false
        #expect(self.name(plan.step(memory, at: self.now)) == "expose 1")
        memory.places["kl-sidecar-1"]?["k"] = .init(tcp: "192.0.2.1:30101")
        #expect(self.name(plan.step(memory, at: self.now)) == "keep 1")
        var ending = plan
        ending = PodPlan(
            pod: try madePod([("kl-sidecar-1", self.running)], deleted: true),
            ports: plan.ports,
            key: "k",
            kind: .intercept,
            image: plan.image,
            isImageWanted: false,
            isReachedByService: true
        )
        #expect(self.name(ending.step(memory, at: self.now)) == "keep 1")
        #expect(ending.step(self.known("kl-sidecar-1"), at: self.now) == .leave)
    }

    @Test("Pods without a part in it")
    func left() throws {
        #expect(self.plan(try madePod(), ports: []).step(PodMemory(), at: self.now) == .leave)
        #expect(self.step(try madePod(more: #","hostNetwork":true"#)) == .leave)
        #expect(self.step(try madePod(deleted: true)) == .leave)
        var finished = try madePod()
        finished.status?.phase = "Succeeded"
        #expect(self.step(finished) == .leave)
    }

    @Test("A pod that ends keeps its sidecar, and gets none")
    func ending() throws {
        let pod = try madePod([("kl-sidecar-1", self.running)], deleted: true)
        #expect(self.name(self.step(pod, self.known("kl-sidecar-1"))) == "keep 1")
        #expect(self.step(pod) == .leave)
        let over = try madePod([("kl-sidecar-1", self.ended(0))], deleted: true)
        #expect(self.step(over, self.known("kl-sidecar-1")) == .leave)
    }

    @Test("What has ended is made again, at once and then more slowly")
    func again() throws {
        let pod = try madePod([("kl-sidecar-1", self.ended(137))])
        #expect(self.step(pod) == .inject)
        #expect(self.step(pod, self.known("kl-sidecar-1", injectedAgo: .seconds(60))) == .inject)
        let soon = self.step(pod, self.added(ago: .milliseconds(500)))
        #expect(self.name(soon) == "fail")
        var memory = PodMemory()
        for ago in [500, 400, 300, 200] {
            memory.injections.append(.init(name: "x\(ago)", at: self.now - .seconds(ago)))
        }
        #expect(memory.mayInject(at: self.now) == true)
        memory.injections.append(.init(name: "kl-sidecar-1", at: self.now - .seconds(100)))
        #expect(memory.mayInject(at: self.now) == nil)
        #expect(self.name(self.step(pod, memory)) == "fail")
        // The first one was ten minutes ago.
        #expect(memory.mayInject(at: self.now + .seconds(101)) == true)
    }

    @Test("A lost sandbox or container, whatever the API server says")
    func lost() throws {
        let moved = try madePod([("kl-sidecar-1", self.running)], ip: "10.244.0.8")
        #expect(self.step(moved, self.known("kl-sidecar-1", injectedAgo: .seconds(60))) == .inject)
        let pod = try madePod([("kl-sidecar-1", self.running)])
        var memory = self.known("kl-sidecar-1", injectedAgo: .seconds(60))
        memory.lost = ["kl-sidecar-1"]
        #expect(self.step(pod, memory) == .inject)
    }

    @Test(
        "Reasons that can't mend themselves end the wait",
        arguments: [
            "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
            "RunContainerError",
        ]
    )
    func stuck(reason: String) throws {
        let pod = try madePod([("kl-sidecar-1", self.waiting(reason))])
        #expect(self.name(self.step(pod, self.added(ago: .seconds(1)))) == "fail")
        // Later another one is tried; and of what an earlier process has added nothing is expected.
        #expect(self.step(pod, self.added(ago: .seconds(61))) == .inject)
        #expect(self.step(pod) == .inject)
    }

    @Test(
        "An image for another architecture is told from others",
        arguments: [
            #"{"waiting":{"reason":"ErrImagePull","message":"no match for platform in manifest: not found"}}"#,
            #"{"terminated":{"exitCode":128,"reason":"StartError","message":"exec /kl-sidecar: exec format error"}}"#,
            #"{"terminated":{"exitCode":255,"reason":"Error","message":"exec /kl-sidecar: exec format error\n"}}"#,
        ]
    )
    func architecture(state: String) throws {
        let pod = try madePod([("kl-sidecar-1", state)])
        var trouble = SidecarTrouble(pod: pod, image: "kl-sidecar:1")
        #expect(self.step(pod, self.added(ago: .milliseconds(500))) == .fail(trouble.wrongArchitecture))
        #expect(
            trouble.wrongArchitecture.what
                == "the image 'kl-sidecar:1' is for another architecture than pod web-1 on node n1"
        )
        trouble.architecture = "arm64"
        #expect(
            trouble.wrongArchitecture.what
                == "the image 'kl-sidecar:1' isn't for arm64, the architecture of pod web-1 on node n1"
        )
    }

    @Test("Nobody waits for ever")
    func late() throws {
        let pod = try madePod([("kl-sidecar-1", "")])
        #expect(self.name(self.step(pod, self.added(ago: .seconds(21)))) == "fail")
        // Its image may be being fetched: then the reason comes later than that.
        let creating = try madePod([("kl-sidecar-1", self.waiting("ContainerCreating"))])
        #expect(self.name(self.step(creating, self.added(ago: .seconds(21)))) == "wait")
        #expect(self.name(self.step(creating, self.added(ago: .seconds(41)))) == "fail")
        var memory = PodMemory()
        memory.waiting["kl-sidecar-1"] = self.now - .seconds(1)
        #expect(self.name(self.step(pod, memory)) == "wait")
        memory.waiting["kl-sidecar-1"] = self.now - .seconds(21)
        #expect(self.step(pod, memory) == .inject)
    }

    @Test("Of several the newest that runs")
    func several() throws {
        let later = #"{"running":{"startedAt":"2026-12-01T00:00:01Z"}}"#
        let both = try madePod([("kl-sidecar-1", self.running), ("kl-sidecar-2", later)])
        #expect(self.name(self.step(both, self.known("kl-sidecar-1"))) == "admit 2")
        let one = try madePod([("kl-sidecar-1", self.running), ("kl-sidecar-2", self.waiting("ContainerCreating"))])
        #expect(self.name(self.step(one, self.known("kl-sidecar-1"))) == "keep 1")
    }

    @Test("One that is of no use makes room")
    func replaced() throws {
        let other = try madePod([("kl-sidecar-1", self.running)], ports: "9090")
        #expect(self.name(self.step(other)) == "replace 1")
        let image = try madePod([("kl-sidecar-1", self.running)], image: "other")
        #expect(self.name(self.step(image, self.known("kl-sidecar-1"))) == "keep 1")
        #expect(self.name(self.step(image, self.known("kl-sidecar-1"), isImageWanted: true)) == "replace 1")
    }

    @Test("One piece of work at a time, and a pause after one that failed")
    func rests() throws {
        var memory = PodMemory()
        memory.isBusy = true
        #expect(self.name(self.step(try madePod(), memory)) == "wait")
        memory.isBusy = false
        memory.failure = .init(problem: Problem(.failed, "no"), until: self.now + .seconds(1))
        #expect(self.step(try madePod(), memory) == .fail(Problem(.failed, "no")))
        memory.failure?.isFinal = false
        #expect(self.step(try madePod(), memory) == .wait("no"))
        memory.failure?.until = self.now
        #expect(self.step(try madePod(), memory) == .inject)
        // What runs isn't given up for that.
        var kept = self.known("kl-sidecar-1")
        kept.isBusy = true
        #expect(self.name(self.step(try madePod([("kl-sidecar-1", self.running)]), kept)) == "keep 1")
    }
}

struct ServiceViewTests {
    private func view(_ ports: String, _ pods: [Pod]) throws -> ServiceView {
        let text = #"{"metadata":{"name":"web"},"spec":{"selector":{"app":"web"},"ports":[\#(ports)]}}"#
        return ServiceView(service: try JSONDecoder().decode(ServiceObject.self, from: Data(text.utf8)), pods: pods)
    }

    private func location(_ view: ServiceView, _ ports: [ServicePort]) throws -> SidecarLocation {
        var words = SidecarWords(publicKey: ada, port: 4_711, datagramPort: 4_712)
        words.originalSees = .sidecars(because: nil)
        return view.location(
            of: try #require(view.pods.first),
            at: (name: "kl-sidecar-1", words: words),
            for: ports
        )
    }

    @Test("The pod's ports behind the Service's")
    func ports() throws {
        let named = #"{"port":80,"targetPort":"http"},{"port":53,"protocol":"UDP"},{"port":81,"targetPort":"absent"}"#
        let view = try self.view(named, [try madePod()])
        let location = try self.location(view, [.init(80), .init(53, .udp), .init(81)])
        #expect(location.container == "kl-sidecar-1")
        #expect(location.name == "web-1" && location.tcp == "10.244.0.7:4711" && location.udp == "10.244.0.7:4712")
        #expect(location.listens == ["10.244.0.7:53/udp", "10.244.0.7:8080"])
        #expect(location.ports == [.init(.init(80), own: 8_080), .init(.init(53, .udp), own: 53)])
        #expect(location.originalSees?.address == "10.244.0.7")
        #expect(view.candidates(for: [.init(81)]).isEmpty && view.candidates(for: [.init(80)]).count == 1)
        #expect(view.servicePorts(of: .init(8_080), in: view.pods[0]) == [.init(80)])
        let alike = try self.view(#"{"port":8080}"#, [try madePod(ip: "fd00::7")])
        #expect(try self.location(alike, [.init(8_080)]).ports == nil && alike.isIPv6 == false)
        #expect(try self.location(alike, [.init(8_080)]).tcp == "[fd00::7]:4711")
    }

    @Test("A start waits for the pods that are ready, or for those on a node")
    func awaited() throws {
        var ready = try madePod()
        ready.status?.conditions = [.init(type: "Ready", status: "True")]
        let other = try madePod(deleted: true)
        var new = try madePod()
        new.spec?.nodeName = nil
        let port = #"{"port":8080}"#
        #expect(try self.view(port, [ready, try madePod(), other, new]).awaited(for: [.init(8_080)]).count == 1)
        #expect(
            try self.view(port, [try madePod(), try madePod(), other, new]).awaited(for: [.init(8_080)]).count == 2
        )
    }
}

struct SidecarInjectionTests {
    @Test("The container's description, as the API takes it")
    func patch() throws {
        let serving = SidecarInjection.Serving(
            ports: [.init(8_080), .init(53, .udp)],
            peer: .init(ada, label: "ada@thinkpad", holding: .mirror, [.init(8_080)]),
            nodeAddresses: ["10.0.0.2"],
            isIPv6: false,
            graceSeconds: 30
        )
        let injection = SidecarInjection(serving, image: "kl-sidecar:1", name: "kl-sidecar-0000beef")
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let text = String(decoding: try encoder.encode(injection.patch), as: UTF8.self)
        let words = injection.program.words.map { "\"\($0)\"" }.joined(separator: ",")
        #expect(
            text == """
                {"spec":{"ephemeralContainers":[{"args":[\(words)],"image":"kl-sidecar:1",\
                "imagePullPolicy":"IfNotPresent","name":"kl-sidecar-0000beef","securityContext":\
                {"allowPrivilegeEscalation":false,"capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]},\
                "readOnlyRootFilesystem":true,"runAsGroup":0,"runAsNonRoot":false,"runAsUser":0,\
                "seccompProfile":{"type":"RuntimeDefault"}},"terminationMessagePolicy":"FallbackToLogsOnError"}]}}
                """
        )
        let line = injection.program.words.joined(separator: " ")
        #expect(
            line.contains("--service-port 53/udp --service-port 8080 --node-address 10.0.0.2 --node-address gateway")
        )
        #expect(line.contains("--ephemeral --idle 30m --grace 30s --memory 16m --announce-intercepts"))
        #expect(line.contains("may=mirror claim=mirror:8080"))
        #expect(
            SidecarInjection(.init(ports: [], peer: .init(ada), nodeAddresses: [], isIPv6: true), image: "").program
                .listenTCP.host == "::"
        )
    }

    @Test("Names are fresh, and sidecars are known again by them")
    func names() throws {
        let name = PodSidecar.newName()
        #expect(name.count == 19 && name.hasPrefix("kl-sidecar-") && name != PodSidecar.newName())
        let pod = try madePod([("debugger-1", #"{"running":{}}"#), (name, #"{"running":{}}"#)], ports: "53/udp")
        #expect(pod.sidecars.map(\.name) == [name] && pod.sidecars.first?.ports == [.init(53, .udp)])
    }

    /// A strategic merge patch adds in front of the list; one by JSON adds at its end.
    @Test("The newest sidecar is the last, wherever it is in the list")
    func order() throws {
        func state(_ time: String) -> String { #"{"running":{"startedAt":"2026-12-01T00:00:\#(time)Z"}}"# }
        let orders: [[(name: String, state: String)]] = [
            [("kl-sidecar-3", state("03")), ("kl-sidecar-2", state("02")), ("kl-sidecar-1", state("01"))],
            [("kl-sidecar-1", state("01")), ("kl-sidecar-2", state("02")), ("kl-sidecar-3", state("03"))],
            [("kl-sidecar-3", ""), ("kl-sidecar-2", state("01")), ("kl-sidecar-1", state("01"))],
        ]
        for order in orders {
            #expect(try madePod(order).sidecars.map(\.name) == ["kl-sidecar-1", "kl-sidecar-2", "kl-sidecar-3"])
        }
        let many = try madePod((0..<300).reversed().map { ("kl-sidecar-\($0)", "") })
        #expect(many.sidecars.count == 256 && many.sidecars.last?.name == "kl-sidecar-299")
    }

    @Test("Reasons, as sentences")
    func sentences() throws {
        let trouble = SidecarTrouble(
            pod: try madePod(more: #","imagePullSecrets":[{"name":"ours"}]"#),
            image: "kl-sidecar:1"
        )
        let denied = trouble.waiting("ErrImagePull", "pull access denied,\nrepository does not exist")
        #expect(denied?.description.contains("pod web-1 on node n1 has no image 'kl-sidecar:1'") == true)
        #expect(denied?.description.contains("(ours)") == true)
        #expect(trouble.waiting("ErrImageNeverPull", nil)?.description.contains("agent/image --help") == true)
        #expect(trouble.waiting("ContainerCreating", nil) == nil)
        let away = "Failed to inspect image: rpc error: code = Unavailable desc = connection error"
        #expect(trouble.waiting("ErrImagePull", away) == nil && trouble.waiting("ImageInspectError", away) == nil)
        #expect(trouble.ended(1, "Error", "exec /kl-sidecar: exec format error").description.contains("architecture"))
        let crash = trouble.ended(1, "Error", "noise\nkl-sidecar: no rules.\n{\"ready\":true}\n").description
        #expect(crash == "the sidecar of pod web-1 on node n1 ended with code 1: no rules")
        #expect(trouble.ended(137, "OOMKilled", nil).description.contains("memory limits"))
        let refusal = APIFailure(
            code: 403,
            reason: "Forbidden",
            message:
                #"pods "web-1" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities (container …)"#
        )
        #expect(
            SidecarTrouble.refusal(refusal, "shop")?.what.hasPrefix(
                "Pod Security 'baseline:latest' of namespace 'shop' doesn't allow sidecars"
            ) == true
        )
        let rights = APIFailure(code: 403, reason: "Forbidden", message: "cannot patch resource")
        #expect(SidecarTrouble.refusal(rights, "shop") == nil)
    }
}
