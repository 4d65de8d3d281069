import Environments
import HostSupport
import InterceptModel
import KubernetesEnvironment
import Testing
import WorkspaceAPI

@testable import kl

struct KernelFactsTests {
    private func checks(_ release: String, tables: Bool?, destroys: Bool?, isAdmin: Bool) -> [Check] {
        KernelFacts(release: release, hasTables: tables, endsConnections: destroys, isNetworkAdmin: isAdmin).checks
    }

    @Test func allIsThere() {
        let checks = self.checks("6.18.44", tables: true, destroys: true, isAdmin: true)
        #expect(checks.allSatisfy { $0.state == .ok && $0.mend == nil })
        #expect(checks.last?.text == "a sidecar started here can listen and redirect")
    }

    @Test(arguments: [("5.11.22", false), ("4.19.0-27-amd64", false), ("5.12.0", true), ("6.1.0", true), ("", true)])
    func ofAnOldKernel(_ release: String, _ isEnough: Bool) {
        #expect((self.checks(release, tables: nil, destroys: nil, isAdmin: false).first?.state == .ok) == isEnough)
    }

    @Test func withoutTablesNobodyRedirects() {
        let checks = self.checks("6.1.0", tables: false, destroys: false, isAdmin: true)
        #expect(checks.map(\.state) == [.ok, .warning, .ok, .ok])
        #expect(checks.last?.text.hasPrefix("a sidecar started here can listen; redirect needs") == true)
    }

    @Test(
        arguments: [
            ("Name:\tkl\nCapEff:\t000001ffffffffff\n", true), ("CapEff:\t0000000000001000", true),
            ("CapEff:\t0000000000000fff", false), ("CapPrm:\t000001ffffffffff", false), ("CapEff:\tx", false),
            ("", false),
        ]
    )
    func capabilities(_ status: String, _ isAdmin: Bool) {
        #expect(KernelFacts.hasCapability(12, in: status) == isAdmin)
    }
}

struct DockerFactsTests {
    private func facts(_ engine: DockerFacts.Engine, hasImage: Bool? = nil) -> [Check] {
        DockerFacts(client: "/usr/bin/docker", engine: engine, hasImage: hasImage).checks
    }

    @Test func withoutAClientThereIsOneLine() {
        let checks = DockerFacts(client: nil).checks
        #expect(checks.map(\.name) == ["docker"] && checks.first?.state == .warning)
    }

    @Test func whoIsConnectedToAnEngineNeedsIt() {
        let all: [DockerFacts.Engine] = [.silent, .denied, .failed("gone")]
        for engine in all {
            let facts = DockerFacts(client: "/usr/bin/docker", engine: engine, isNeeded: true)
            #expect(facts.checks.map(\.state) == [.failed])
        }
        let version = DockerFacts.Engine.answers(version: "20.10.24")
        let facts = DockerFacts(client: "/usr/bin/docker", engine: version, hasImage: false, isNeeded: true)
        #expect(facts.checks.map(\.state) == [.ok, .failed])
        #expect(DockerFacts(client: nil, isNeeded: true).checks.map(\.state) == [.failed])
    }

    @Test func ofTheImageOnlyAnEngineKnows() {
        #expect(self.facts(.silent).map(\.name) == ["docker"])
        #expect(self.facts(.denied).first?.text == "you may not use the engine's socket")
        let checks = self.facts(.answers(version: "20.10.24"), hasImage: false)
        #expect(checks.map(\.state) == [.ok, .warning])
        #expect(checks.first?.text == "/usr/bin/docker, engine 20.10.24")
        #expect(checks.last?.mend == "Make it: agent/image")
        #expect(self.facts(.answers(version: "27"), hasImage: true).allSatisfy { $0.state == .ok })
    }

    @Test(
        arguments: [
            (0, #"{"Client":{"Version":"20.10.24"},"Server":{"Version":"27.1"}}"#, .answers(version: "27.1")),
            (
                1, "{\"Client\":{},\"Server\":null}\nCannot connect to the Docker daemon at unix:///x. Is it running?",
                .failed("Cannot connect to the Docker daemon at unix:///x")
            ),
            (
                1,
                "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
                .denied
            ),
            (127, "", .failed("its client says nothing")),
            (0, "something else.", .failed("something else")),
        ] as [(Int32, String, DockerFacts.Engine)]
    )
    func whatTheClientSays(_ code: Int32, _ output: String, _ engine: DockerFacts.Engine) {
        #expect(DockerFacts.engine(.init(code: code, output: output)) == engine)
    }

    @Test func oneThatSaysNothingIsEnded() {
        #expect(DockerFacts.engine(.init(code: nil, output: "", isLate: true)) == .silent)
        #expect(BoundedCommand.run("/bin/sh", ["-c", "sleep 60"], within: 100)?.isLate == true)
        let result = BoundedCommand.run("/bin/sh", ["-c", "sleep 60 & echo a; echo b >&2; exit 3"], within: 5_000)
        #expect(result == .init(code: 3, output: "a\nb\n"))
        #expect(BoundedCommand.run("/nowhere/docker", [], within: 100)?.code ?? 127 == 127)
    }
}

struct HomeFactsTests {
    private let home = WorkspaceHome(folder: "/home/ada/kl")

    @Test func whatIsRefusedIsSaidWithItsMend() {
        var facts = HomeFacts(
            home: self.home,
            problem: Problem(.failed, "'/x' is open to other users (mode 0755)", "Close it with 'chmod 700'.")
        )
        #expect(facts.checks.map(\.name) == ["home"] && facts.checks.first?.state == .failed)
        #expect(facts.checks.first?.mend == "Close it with 'chmod 700'.")
        facts = HomeFacts(home: self.home, key: .refused(Problem(.failed, "'/x' is a link", "Copy the key.")))
        #expect(facts.checks.map(\.state) == [.ok, .failed, .ok])
    }

    @Test func aFullDisk() {
        #expect(HomeFacts(home: self.home, room: 100).checks.first?.state == .failed)
        #expect(HomeFacts(home: self.home, room: 1 << 30).checks.allSatisfy { $0.state == .ok })
    }

    @Test func aSocketsPathMayBeOfAnyLength() {
        let long = WorkspaceHome(folder: "/" + String(repeating: "a", count: 200))
        let check = HomeFacts(home: long).checks.last
        #expect(check?.state == .ok && check?.text.contains("too many for an address") == true)
    }

    @Test func daemons() {
        let silent = SilentDaemon(pid: 4711, home: self.home)
        #expect(DaemonFacts(daemon: .none).checks.first?.state == .ok)
        #expect(DaemonFacts(daemon: .runs(version: "0.0.1")).checks.first?.state == .warning)
        #expect(DaemonFacts(daemon: .runs(version: "1"), expected: "1").checks.first?.state == .ok)
        let check = DaemonFacts(daemon: .silent(silent)).checks.first
        #expect(check?.state == .failed && check?.mend == "End it with 'kill -9 4711'.")
    }
}

struct MachineFactsTests {
    @Test(
        arguments: [
            (1_024, 1_048_576, .ok), (1_024, UInt64.max, .ok), (64, 1_024, .warning), (64, 64, .failed),
        ] as [(UInt64, UInt64, Check.State)]
    )
    func limits(_ soft: UInt64, _ hard: UInt64, _ state: Check.State) {
        #expect(LimitFacts(soft: soft, hard: hard).checks.map(\.state) == [state])
    }

    @Test(
        arguments: [
            (1_795_000_000, 100, nil, .ok), (1_795_000_000, 100, 1_795_000_059, .ok),
            (1_795_000_000, 100, 1_795_000_061, .warning), (1_795_000_000, 1_790_000_000, nil, .warning),
            (100, 10, nil, .failed), (-1, 0, nil, .failed),
        ] as [(Int64, Int64, Int64?, Check.State)]
    )
    func clocks(_ now: Int64, _ uptime: Int64, _ latest: Int64?, _ state: Check.State) {
        #expect(ClockFacts(now: now, uptime: uptime, latestChange: latest).checks.map(\.state) == [state])
    }

    @Test func oneLineEach() {
        let view = DoctorView([
            .ok("a", "fine"), .warning("longer", "no b", "Make one."), .failed("c", "d\ne", "Do f."),
        ])
        #expect(view.text(.init()) == "✓ a        fine\n! longer   no b. Make one.\n✗ c        d e. Do f.\n")
        #expect(!view.isUsable)
        #expect(DoctorView([.warning("a", "b", "c")]).isUsable)
    }
}

struct ClusterFactsTests {
    private static let place = KubernetesPlace(context: "dev", namespace: "shop", server: "https://10.0.0.7:6443")

    private static func checks(_ change: (inout KubernetesFacts) -> Void) -> [Check] {
        var facts = KubernetesFacts()
        facts.clientVersion = "v1.37.1"
        facts.serverVersion = "v1.36.2"
        facts.lacking = []
        facts.podSecurity = "privileged"
        facts.secondsAhead = 1
        change(&facts)
        return ClusterFacts(place: Self.place, facts: facts).checks
    }

    @Test func allIsThere() {
        let checks = Self.checks { _ in }
        #expect(checks.allSatisfy { $0.state == .ok && $0.mend == nil })
        #expect(checks.map(\.name) == ["kubectl", "cluster", "rights", "pod security", "clocks", "sidecar image"])
    }

    @Test func whatLacksIsNamed() {
        let rights = KubernetesFacts.Right.needed.filter { ["exec", "ephemeralcontainers"].contains($0.subresource) }
        let checks = Self.checks { $0.lacking = rights }
        #expect(checks[2].state == .failed)
        #expect(checks[2].text == "in namespace shop you may not create pods/exec, patch pods/ephemeralcontainers")
    }

    @Test func aNamespaceThatRefusesSidecars() {
        #expect(Self.checks { $0.podSecurity = "restricted" }[3].state == .failed)
        #expect(Self.checks { $0.podSecurity = nil }[3].state == .ok)
    }

    @Test(arguments: [(-61 as Int64, Check.State.warning), (61, .warning), (60, .ok), (-60, .ok), (0, .ok)])
    func clocks(_ ahead: Int64, _ state: Check.State) {
        #expect(Self.checks { $0.secondsAhead = ahead }[4].state == state)
    }

    @Test func nobodyAnswers() {
        let problem = Problem(.failed, "the API server can't be reached", "Try.")
        let silent = Self.checks {
            $0.serverVersion = nil
            $0.problem = problem
        }
        #expect(silent == [.ok("kubectl", "v1.37.1"), .failed("cluster", problem)])
        #expect(Self.checks { $0.clientVersion = nil }.map(\.state) == [.failed])
    }
}
