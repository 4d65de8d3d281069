import Environments
import Libc
import Testing

@testable import DockerEnvironment

struct DockerEventTests {
    private func event(
        _ type: String,
        _ action: String,
        id: String = "web1",
        attributes: String = "{}"
    ) -> DockerEvent? {
        DockerEvent(
            line: #"{"Type":"\#(type)","Action":"\#(action)","Actor":{"ID":"\#(id)","Attributes":\#(attributes)}}"#
        )
    }

    /// Docker's words and podman's.
    @Test(arguments: [
        "create", "init", "start", "die", "died", "stop", "destroy", "remove", "cleanup", "pause", "unpause", "rename",
        "kill",
        "restart", "oom", "update", "a word of tomorrow",
    ])
    func whatMayChangeSomethingIsLookedAt(_ action: String) {
        #expect(self.event("container", action)?.mayMatter == true)
    }

    @Test(arguments: [
        ("container", "exec_create: sh -c true"), ("container", "exec_start: sh"), ("container", "exec_die"),
        ("container", "exec_died"), ("container", "health_status: healthy"), ("container", "attach"),
        ("image", "pull"), ("volume", "mount"), ("network", "create"), ("network", "prune"), ("builder", "prune"),
    ])
    func whatRunsAllTheTimeIsNot(_ type: String, _ action: String) {
        #expect(self.event(type, action)?.mayMatter == false)
    }

    @Test func aNetworksEventTellsOfTheContainer() {
        let docker = self.event("network", "connect", id: "net", attributes: #"{"container":"web1","name":"n"}"#)
        #expect(docker?.mayMatter == true && docker?.container == "web1")
        let podman = self.event("network", "disconnect", attributes: #"{"name":"shop-web-1"}"#)
        #expect(podman?.mayMatter == true && podman?.container == "web1")
    }

    @Test func anEndIsToldFromOtherSignals() {
        var container = DockerContainer(id: "web1", name: "web", status: "running")
        func ends(_ signal: String) -> Bool {
            self.event("container", "kill", attributes: #"{"signal":"\#(signal)"}"#)?.signal.map(container.ends)
                ?? false
        }
        #expect(ends("15") && ends("9") && !ends("1") && !ends("3") && !ends("x"))
        container.stopSignal = "SIGQUIT"
        #expect(ends("3") && ends("9") && !ends("15"))
        container.stopSignal = "15"
        #expect(ends("15"))
        container.stopSignal = "SIGRTMIN+3"
        #expect(ends("37") && !ends("15"))
        container.stopSignal = "odd"
        #expect(!ends("15") && ends("9"))
        #expect(self.event("container", "kill")?.signal == nil)
        #expect(self.event("container", "kill")?.asksToEnd(container, ofPodman: true) == false)
        #expect(self.event("container", "died")?.isDeath == true && self.event("container", "die")?.isDeath == true)
        #expect(self.event("network", "die")?.isDeath == false)
    }

    /// Docker says it when the container runs again, podman before it ends.
    @Test func aRestartIsPodmansFirstWordAndDockersLast() {
        let container = DockerContainer(id: "web1", name: "web", status: "running")
        let restart = self.event("container", "restart")
        #expect(restart?.asksToEnd(container, ofPodman: true) == true)
        #expect(restart?.asksToEnd(container, ofPodman: false) == false)
        #expect(restart?.isStart == false && self.event("container", "start")?.isStart == true)
    }

    @Test func aProcessOfAnotherMachineIsNoContainers() {
        let id = String(repeating: "0123456789abcdef", count: 4)
        #expect(!DockerContainer.isProcess(getpid(), of: id))
        #expect(!DockerContainer.isProcess(getpid(), of: ""))
        #expect(!DockerContainer.isProcess(.max, of: id))
    }

    @Test(arguments: ["", "{", "[]", "7", #"{"Type":7}"#, #"{"Actor":{"Attributes":[]}}"#])
    func whatCannotBeReadMayMeanAnything(_ line: String) {
        #expect(DockerEvent(line: line) == nil)
    }

    @Test(
        arguments: [
            ("15", 15), ("SIGTERM", 15), ("term", 15), ("RTMIN+1", 35), ("0", nil), ("65", nil), ("RTMIN+31", nil),
            ("", nil), ("SIG", nil), ("RTMIN+", nil),
        ] as [(String, CInt?)]
    )
    func signals(_ text: String, _ number: CInt?) {
        #expect(StopSignal.number(text) == number)
    }
}
