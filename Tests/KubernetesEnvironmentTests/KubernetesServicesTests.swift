import Environments
import FoundationEssentials
import InterceptModel
import Testing

@testable import KubernetesEnvironment

struct KubernetesServicesTests {
    static func pod(
        _ name: String,
        app: String = "web",
        ports: String = #"[{"name":"http","containerPort":8080}]"#,
        phase: String = "Running",
        extra: String = "",
        metadata: String = ""
    ) throws -> Pod {
        let text = """
            {"metadata":{"name":"\(name)","uid":"u-\(name)","labels":{"app":"\(app)","tier":"front"}\(metadata)},
             "spec":{"containers":[{"name":"c","ports":\(ports)}]\(extra)},"status":{"phase":"\(phase)"}}
            """
        return try JSONDecoder().decode(Pod.self, from: Data(text.utf8))
    }

    static func service(
        _ name: String,
        selector: String? = #"{"app":"web"}"#,
        ports: String = #"[{"port":80,"targetPort":8080,"protocol":"TCP"}]"#,
        extra: String = ""
    ) throws -> ServiceObject {
        let selector = selector.map { #","selector":\#($0)"# } ?? ""
        let text = #"{"metadata":{"name":"\#(name)"},"spec":{"ports":\#(ports)\#(selector)\#(extra)}}"#
        return try JSONDecoder().decode(ServiceObject.self, from: Data(text.utf8))
    }

    @Test("A Service has its ports, the pods that run, and where these listen")
    func services() throws {
        let ports = """
            [{"name":"web","port":80,"targetPort":"http"},{"port":81},{"name":"dns","port":53,"protocol":"UDP","targetPort":5353}]
            """
        let pods = [
            try Self.pod("a"), try Self.pod("b", metadata: #","deletionTimestamp":"2026-11-30T18:00:00Z""#),
            try Self.pod("c", phase: "Pending"), try Self.pod("d", app: "other"), try Self.pod("e", phase: "Succeeded"),
        ]
        let services = KubernetesServices([try Self.service("web", ports: ports)], pods).all
        #expect(services.map(\.name) == ["web", "pod/d"])
        let web = try #require(services.first)
        #expect(web.state == .running && web.replicas == 1 && web.refusal == nil && web.reason == nil)
        #expect(
            web.ports == [
                .init(published: 80, target: 8_080, name: "web"), .init(published: 81, target: 81),
                .init(published: 53, target: 5_353, name: "dns", transport: .udp),
            ]
        )
        #expect(web.hasContainer("a") && !web.hasContainer("d"))
        #expect(services.last?.ports == [.init(published: 8_080, target: 8_080, name: "http")])
    }

    @Test("A named target port is each pod's own, and a pod that lacks the name doesn't serve it")
    func namedPorts() throws {
        let port = try #require(
            try Self.service("web", ports: #"[{"port":80,"targetPort":"http"}]"#).spec?.ports?.first
        )
        #expect(port.target(in: try Self.pod("a")) == 8_080)
        #expect(port.target(in: try Self.pod("b", ports: #"[{"name":"http","containerPort":9090}]"#)) == 9_090)
        #expect(port.target(in: try Self.pod("c", ports: #"[{"name":"web","containerPort":9090}]"#)) == nil)
        #expect(
            port.target(in: try Self.pod("d", ports: #"[{"name":"http","containerPort":1,"protocol":"UDP"}]"#)) == nil
        )
        let sidecar =
            #","initContainers":[{"name":"i","restartPolicy":"Always","ports":[{"name":"http","containerPort":7}]}]"#
        #expect(port.target(in: try Self.pod("e", ports: "null", extra: sidecar)) == 7)
        let once = #","initContainers":[{"name":"i","ports":[{"name":"http","containerPort":7}]}]"#
        #expect(port.target(in: try Self.pod("f", ports: "null", extra: once)) == nil)
    }

    @Test("What has no pods of its own, or shares a node's network, is refused with the reason")
    func refusals() throws {
        func refusal(_ service: ServiceObject, _ pods: [Pod]) -> String {
            KubernetesServices([service], pods).all.first?.refusal ?? "none"
        }
        let pods = [try Self.pod("a")]
        let host = try Self.pod("h", extra: #","hostNetwork":true"#)
        #expect(refusal(try Self.service("web"), pods) == "none")
        #expect(refusal(try Self.service("web", extra: #","clusterIP":"None""#), pods) == "none")
        #expect(
            refusal(
                try Self.service("db", selector: nil, extra: #","type":"ExternalName","externalName":"db.example""#),
                pods
            )
                == "'db' is only another name of a host (db.example), and has no pods. Intercept the service there."
        )
        #expect(refusal(try Self.service("x", selector: nil), pods).hasPrefix("'x' has no selector, so"))
        #expect(refusal(try Self.service("x", selector: "{}"), pods).hasPrefix("'x' has no selector, so"))
        #expect(refusal(try Self.service("web"), [host]).hasPrefix("the pods of 'web' use their node's network"))
        #expect(refusal(try Self.service("web"), [host] + pods) == "none")
        #expect(refusal(try Self.service("x", ports: "null"), pods).hasPrefix("'x' names no ports"))
        let sctp = #"[{"port":3868,"protocol":"SCTP"}]"#
        #expect(refusal(try Self.service("x", ports: sctp), pods).hasPrefix("'x' has neither a TCP nor a UDP port"))
    }

    @Test("SCTP ports are left out, and said")
    func sctp() throws {
        let ports = #"[{"port":80},{"port":3868,"protocol":"SCTP"}]"#
        let service = KubernetesServices([try Self.service("web", ports: ports)], [try Self.pod("a")]).all.first
        #expect(service?.ports.map(\.published) == [80])
        #expect(service?.reason == "3868/sctp can't be intercepted, only TCP and UDP can")
    }

    @Test("Why nothing runs is the kubelet's or the scheduler's reason")
    func states() throws {
        func state(_ pods: [Pod]) throws -> (Service.State?, String?) {
            let service = KubernetesServices([try Self.service("web")], pods).all.first
            return (service?.state, service?.reason)
        }
        #expect(try state([]) == (.stopped, "it has no pods"))
        let going = try Self.pod("a", metadata: #","deletionTimestamp":"2026-11-30T18:00:00Z""#)
        #expect(try state([going]) == (.stopped, "its pods are being deleted"))
        var waiting = try Self.pod("a", phase: "Pending")
        #expect(try state([waiting]) == (.starting, nil))
        let text = #"{"name":"c","state":{"waiting":{"reason":"ImagePullBackOff","message":"Back-off"}}}"#
        waiting.status?.containerStatuses = [
            try JSONDecoder().decode(Pod.ContainerStatus.self, from: Data(text.utf8))
        ]
        #expect(try state([waiting]) == (.starting, "a: ImagePullBackOff"))
    }

    @Test("Ports that no port number fits are left out")
    func oddPorts() throws {
        let ports = #"[{"port":0},{"port":70000},{"port":-1},{"port":80,"targetPort":70000}]"#
        let service = KubernetesServices([try Self.service("web", ports: ports)], [try Self.pod("a")]).all.first
        #expect(service?.ports == [.init(published: 80, target: 80)])
    }

    @Test("HTTP's dates are read to the second")
    func dates() {
        #expect(HTTPDate.seconds("Mon, 30 Nov 2026 18:48:44 GMT") == 1_796_064_524)
        #expect(HTTPDate.seconds("Thu, 01 Jan 1970 00:00:00 GMT") == 0)
        #expect(HTTPDate.seconds("Thu, 29 Feb 2024 23:59:59 GMT") == 1_709_251_199)
        for text in ["", "now", "Mon, 30 Foo 2026 18:48:44 GMT", "Mon, 30 Nov 2026 25:48:44 GMT", "a b c d e f"] {
            #expect(HTTPDate.seconds(text) == nil)
        }
    }
}
