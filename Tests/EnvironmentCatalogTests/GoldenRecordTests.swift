import Environments
import Foundation
import GoldenFiles
import HostSupport
import InterceptModel
import SidecarInterface
import TestSupport
import Testing

@testable import DockerEnvironment
@testable import LocalEnvironment

/// What environments keep: in files of a folder that several versions of kl may use, and in labels of containers.
@Suite struct GoldenRecordTests {
    static let key = "WvbBB+ks9eg4tiROBmJxPDHUV8KbPvAYJWZdZ1JIlDo="
    static let holder = Member(label: "ada@thinkpad", publicKey: key)

    static let records: [InterceptRecord] = {
        let plain = InterceptRecord(service: "web", holder: holder, since: "2026-03-01T09:30:00Z", ports: [])
        var full = InterceptRecord(
            service: "api",
            holder: holder,
            since: "2026-03-01T09:30:00Z",
            ports: [
                .init(service: 8_080, target: "127.0.0.1:3000"),
                .init(service: 53, transport: .udp, target: "[::1]:5353"),
            ]
        )
        full.refuses = true
        full.isDiverting = false
        full.connections = .init(open: 1, total: 2, passed: 3)
        return [plain, full]
    }()

    static let service: Service = {
        var service = Service(
            name: "api",
            state: .restarting,
            reason: "exited with code 1",
            ports: [
                .init(published: 8_080, target: 21_090, name: "http"),
                .init(published: 53, target: 53, transport: .udp),
            ],
            replicas: 2
        )
        service.refusal = "it can't be intercepted. Leave it."
        service.mayHaveOtherPorts = true
        service.places = ["127.0.0.1:8080"]
        service.publications = [.init(host: 5_353, port: .init(53, .udp))]
        service.containers = ["shop-api-1"]
        return service
    }()

    static func state() throws -> EnvironmentState {
        let process = try JSONDecoder().decode(ProcessIdentity.self, from: Data(#"{"pid":7,"startTime":11}"#.utf8))
        var sidecar = EnvironmentState.SidecarState(
            name: "api-1",
            state: .ready,
            reason: "why",
            process: process
        )
        sidecar.location = SidecarLocation(
            name: "api-1",
            publicKey: Self.key,
            tcp: "127.0.0.1:51820",
            udp: "127.0.0.1:51820",
            command: ["kl-sidecar", "dial"],
            listens: ["127.0.0.1:8080", "127.0.0.1:53/udp"]
        )
        sidecar.divertingTo = Self.key
        (sidecar.open, sidecar.total, sidecar.passed) = (1, 2, 3)
        var state = EnvironmentState(
            name: "demo",
            file: "/srv/demo/compose.yaml",
            supervisor: process,
            since: "2026-03-01T09:30:00Z",
            services: [
                .init(service: Self.service, process: process, restarts: 4, sidecars: [sidecar]),
                .init(service: Service(name: "web", state: .starting, ports: []), sidecars: [.init(name: "web-1")]),
            ]
        )
        state.problem = "a problem"
        return state
    }

    @Test func `files of an environment`() throws {
        var golden = GoldenFile("environment-files")
        let state = try Self.state()
        try golden.add("state.json", json: state)
        var content = RecordFile.Content()
        try golden.add("record.json, empty", json: content)
        content.members = [Self.holder]
        content.intercepts = Self.records
        try golden.add("record.json", json: content)
        var mirror = InterceptRecord(
            service: "api",
            holder: Member(label: "grace@thinkpad", publicKey: "3Jx5AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA4Q="),
            since: "2026-03-01T09:30:00Z",
            ports: [.init(service: 8_080, target: "127.0.0.1:3000")],
            kind: .mirror
        )
        mirror.lastSeen = "2026-03-01T09:31:00Z"
        content.intercepts.append(mirror)
        try golden.add("record.json with a mirror", json: content)
        golden.add("peers", PeersText.make([Self.holder]))
        try golden.add(
            "reference",
            json: EnvironmentReference(kind: .local, name: "demo", location: "/srv/compose.yaml")
        )
        let engine = DockerEngine(
            host: "unix:///d.sock",
            context: "c",
            configuration: "/c",
            variables: ["DOCKER_TLS": "1"]
        )
        for selection in [DockerPlace.Selection.project("shop"), .network("net")] {
            try golden.add("reference to \(selection)", json: DockerPlace(selection, engine: engine).reference)
        }

        for state in [Service.State.starting, .running, .restarting, .stopped] {
            try golden.add("service \(state)", json: Service(name: "s", state: state, ports: []))
        }
        let requests: [SupervisorRequest] = [.status, .refresh, .down]
        for request in requests { golden.add("\(request)", try GoldenFile.json(request)) }
        let replies: [SupervisorReply] = [
            .state(state), .refreshed, .progress("api: running"), .done, .failed("it failed. Try again."),
        ]
        for (number, reply) in replies.enumerated() { golden.add("reply \(number)", try GoldenFile.json(reply)) }
        #expect(try golden.differences() == [])

        let room = try Room()
        let folder = try StateFolder.make(besideFile: room("compose.yaml"))
        try state.write(to: folder)
        #expect(try String(contentsOfFile: folder.state, encoding: .utf8) == GoldenFile.json(state))
        #expect(try EnvironmentState.read(from: folder) == state)
    }

    @Test func `a sidecar's container`() throws {
        var golden = GoldenFile("sidecar-container")
        var container = SidecarContainer(
            project: "shop-one",
            service: "web",
            replica: 2,
            target: "0123456789ab",
            gateways: ["10.0.0.1", "fd00::1"],
            image: "kl-sidecar:1",
            ports: [.init(80), .init(53, .udp)],
            record: InterceptRecord(
                service: "web",
                holder: Self.holder,
                since: "2026-11-23T17:00:00Z",
                ports: [.init(service: 80, target: "127.0.0.1:3000")]
            )
        )
        func words() -> String {
            container.arguments.map { $0.replacing(Version.number, with: "VERSION") }.joined(separator: "\n")
        }
        golden.add("arguments", words())
        container.namespace = "/run/netns/netns-1"
        container.gateways = []
        golden.add("arguments with a namespace", words())
        container.record.kind = .mirror
        golden.add("arguments of a mirror", words())
        #expect(try golden.differences() == [])
    }

    @Test func `what a sidecar says of itself`() throws {
        var golden = GoldenFile("sidecar-words")
        let ready = #"{"ready":true,"publicKey":"\#(Self.key)","tcp":"0.0.0.0:51820""#
        let lines = [
            "\(ready)}", "\(ready),\"udp\":\"0.0.0.0:51821\",\"later\":1}",
            "\(ready),\"intercept\":{\"diverting\":false}}",
            "\(ready),\"intercept\":{\"diverting\":true,\"generation\":3,\"key\":\"k\",\"open\":1,\"passed\":2,\"ports\":[80],"
                + "\"since\":\"s\",\"total\":4,\"udpPorts\":[53],\"workspace\":\"ada\"}}",
            "\(ready.replacing("51820", with: "0"))}", "\(ready.replacing("true", with: "false"))}", "{}", "ready",
        ]
        for line in lines {
            let said = SidecarWords(line: line).map { words in
                let place = "\(words.publicKey) \(words.port) \(words.datagramPort.map { "\($0)" } ?? "-")"
                guard let intercept = words.intercept else { return place }
                let counts = [intercept.generation, intercept.open, intercept.total, intercept.passed]
                return place + " \(intercept.diverting) \(intercept.key ?? "-") \(intercept.workspace ?? "-")"
                    + " \(intercept.since ?? "-") \(intercept.ports ?? []) \(intercept.udpPorts ?? [])"
                    + " \(counts.map { $0.map { "\($0)" } ?? "-" }.joined(separator: " "))"
            }
            golden.add(line, said ?? "isn't understood")
        }
        #expect(try golden.differences() == [])
    }
}
