import CommandText
import InterceptModel
import NIOCore
import SidecarInterface
import Testing

@testable import kl_sidecar

/// The program reads what environments write.
@Suite struct SidecarArgumentsTests {
    private static let key = "WvbBB+ks9eg4tiROBmJxPDHUV8KbPvAYJWZdZ1JIlDo="

    private static func parsed(_ arguments: SidecarArguments) throws -> RunSidecar {
        try #require(try KlSidecar.parseAsRoot(arguments.words) as? RunSidecar)
    }

    @Test func `nothing but what is needed`() throws {
        var arguments = SidecarArguments(
            listenTCP: Endpoint(host: "127.0.0.1", port: 0),
            divert: .listenOnAll(host: "127.0.0.1"),
            servicePorts: [ServedPort(ServicePort(8_080), onThisHostAt: 21_090)]
        )
        arguments.peersFile = "/srv/demo/.kl/peers"
        let run = try Self.parsed(arguments)
        #expect(run.listenTcp == arguments.listenTCP && run.listenUdp == nil)
        #expect(run.divert == arguments.divert && run.netns == nil && run.loopback == nil)
        #expect(run.servicePort == arguments.servicePorts)
        #expect(run.peer.isEmpty && run.peersFile == arguments.peersFile && run.nodeAddress.isEmpty)
        #expect(!run.allowTakeover && !run.allowRefuse && !run.ephemeral && !run.announceIntercepts)
        #expect(run.linger == .minutes(10) && run.idle == nil && run.grace == nil && run.memory == nil)
    }

    @Test func `all that there is`() throws {
        var arguments = SidecarArguments(
            listenTCP: Endpoint(host: "::1", port: 51_820),
            listenUDP: Endpoint(host: "0.0.0.0", port: 0),
            divert: .redirect,
            servicePorts: [
                ServedPort(ServicePort(80), onThisHostAt: 80), ServedPort(ServicePort(53, .udp), onThisHostAt: 53),
                ServedPort(ServicePort(443), upstream: Endpoint(host: "::1", port: 8_443)),
                ServedPort(ServicePort(5_353, .udp), onThisHostAt: 53),
            ]
        )
        arguments.peers = [Admission(Self.key)]
        arguments.peersFile = "peers"
        arguments.netns = "/run/netns/demo"
        arguments.loopback = .original
        arguments.nodeAddresses = ["10.0.0.1", "fd00::1", "gateway"]
        arguments.allowsTakeover = true
        arguments.allowsRefuse = true
        arguments.lingerMinutes = 3
        arguments.isEphemeral = true
        arguments.idleMinutes = 30
        arguments.graceSeconds = 45
        arguments.memoryMiB = 32
        arguments.announcesIntercepts = true
        arguments.logFormat = .json
        let run = try Self.parsed(arguments)
        #expect(run.listenTcp == arguments.listenTCP && run.listenUdp == arguments.listenUDP)
        #expect(run.divert == .redirect && run.netns != nil && run.loopback?.rawValue == "original")
        #expect(run.servicePort == arguments.servicePorts)
        #expect(run.peer.map(\.key.base64) == [Self.key] && run.peersFile == "peers")
        #expect(run.nodeAddress == arguments.nodeAddresses)
        #expect(run.allowTakeover && run.allowRefuse && run.ephemeral && run.announceIntercepts)
        #expect(run.idle == .minutes(30) && run.grace == .seconds(45) && run.memory == 32 << 20)
        #expect(run.linger == .minutes(3) && run.agent.logFormat == .json)
    }

    @Test(arguments: ["redirect", "listen=127.0.0.1", "listen=[::1]", "listen=127.0.0.1:0", "listen=[::1]:8080"])
    func `ways to divert`(text: String) throws { #expect(try DivertFlag(text).description == text) }

    @Test(arguments: SidecarArguments.Loopback.allCases)
    func `who answers over the loopback`(loopback: SidecarArguments.Loopback) throws {
        var arguments = SidecarArguments(
            listenTCP: Endpoint(host: "127.0.0.1", port: 0),
            divert: .redirect,
            servicePorts: [ServedPort(ServicePort(80), onThisHostAt: 80)]
        )
        arguments.peers = [Admission(Self.key)]
        arguments.loopback = loopback
        #expect(try Self.parsed(arguments).loopback?.rawValue == loopback.rawValue)
    }
}
