import Environments
import FoundationEssentials
import Testing

@testable import KubernetesEnvironment

struct TunnelServiceTests {
    private let ada = Member(label: "ada@thinkpad", publicKey: "WvbBB+ks9eg4tiROBmJxPDHUV8KbPvAYJWZdZ1JIlDo=")

    private func ours(_ way: KubernetesPlace.Way, _ more: String = "") throws -> TunnelService {
        TunnelService(pod: try madePod(more: more), container: "kl-sidecar-00c0ffee", way: way, workspace: self.ada)
    }

    private func service(_ status: String = "{}", ports: String) throws -> ServiceObject {
        let text = #"{"metadata":{"name":"s"},"spec":{"ports":[\#(ports)]},"status":\#(status)}"#
        return try JSONDecoder().decode(ServiceObject.self, from: Data(text.utf8))
    }

    private let ports = """
        {"name":"tcp","protocol":"TCP","port":4711,"nodePort":30100},{"name":"udp","protocol":"UDP","port":4712,"nodePort":30101}
        """

    @Test("One Service for a sidecar and a workspace, under a name that a Service can have")
    func named() throws {
        let ours = try self.ours(.nodePort)
        #expect(ours.name.utf8.count <= 63 && ours.name.hasPrefix("kl-sidecar-00c0ffee-"))
        let grace = TunnelService(
            pod: ours.pod,
            container: ours.container,
            way: .nodePort,
            workspace: Member(label: "grace", publicKey: "x")
        )
        #expect(ours.name != grace.name)
        let text = String(decoding: try JSONEncoder().encode(ours.object(tcp: 4_711, udp: nil)), as: UTF8.self)
        let made = try JSONDecoder().decode(ServiceObject.self, from: Data(text.utf8))
        #expect(TunnelService.isOurs(made))
        #expect(made.spec?.selector == ["kl.io/pod": "u1"] && made.spec?.type == "NodePort")
        #expect(made.metadata.ownerReferences?.first?.uid == "u1" && made.spec?.ports?.count == 1)
    }

    @Test("A node's ports, at the host that is given")
    func nodePort() throws {
        let ours = try self.ours(.nodePort)
        let service = try self.service(ports: self.ports)
        #expect(
            ours.place(service, node: "192.0.2.7") == .init(tcp: "192.0.2.7:30100", udp: "192.0.2.7:30101")
        )
        #expect(ours.place(service, node: "2001:db8::7")?.tcp == "[2001:db8::7]:30100")
        #expect(ours.place(service, node: nil) == nil)
        #expect(ours.place(try self.service(ports: #"{"port":4711}"#), node: "192.0.2.7") == nil)
    }

    @Test("A load balancer's address or name, once it is there")
    func balancer() throws {
        let ours = try self.ours(.loadBalancer)
        #expect(ours.place(try self.service(ports: self.ports), node: "192.0.2.7") == nil)
        let empty = #"{"loadBalancer":{"ingress":[{}]}}"#
        #expect(ours.place(try self.service(empty, ports: self.ports), node: nil) == nil)
        let named = #"{"loadBalancer":{"ingress":[{"hostname":"lb.example"}]}}"#
        #expect(
            ours.place(try self.service(named, ports: self.ports), node: nil)
                == .init(tcp: "lb.example:4711", udp: "lb.example:4712")
        )
    }
}
