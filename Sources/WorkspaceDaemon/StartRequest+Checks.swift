import CommandText
import Environments
import InterceptModel
import InterceptProtocol
import WorkspaceAPI
import WorkspaceAgent

extension StartRequest {
    /// The CLI has checked the same, but a request on the socket may come from any program of this user.
    func check() throws {
        guard !self.service.isEmpty, self.service.utf8.count <= 256 else {
            throw RequestFailure(.failed, "a service's name has 1 to 256 bytes. Name one that is there.")
        }
        guard !self.mappings.isEmpty else {
            throw RequestFailure(.failed, "no port is mapped. Name one by --port, such as --port 8080:3000.")
        }
        guard self.mappings.allSatisfy({ $0.service > 0 && $0.port > 0 && !$0.host.isEmpty }) else {
            throw RequestFailure(.failed, "ports are 1 to 65535. Check the --port flags.")
        }
        guard (0...600).contains(self.drainSeconds) else {
            throw RequestFailure(.failed, "the drain time is at most 10m. Check the --drain flag.")
        }
        guard OnUnavailable(rawValue: self.onUnavailable) != nil, Probes(rawValue: self.probes) != nil else {
            throw RequestFailure(.failed, "--on-unavailable is original or refuse, --probes original or workspace.")
        }
        guard self.proxyProtocol.map({ ProxyProtocol(rawValue: $0) != nil }) ?? true else {
            throw RequestFailure(.failed, "--proxy-protocol is v1 or v2.")
        }
        guard self.carrier.map({ CarrierChoice(rawValue: $0) != nil }) ?? true else {
            throw RequestFailure(.failed, "--carrier is \(CarrierChoice.names).")
        }
        guard self.endpoint.map({ (try? Flags.endpoint($0)) != nil && self.carrierChoice != .exec }) ?? true else {
            throw RequestFailure(.failed, "--endpoint is HOST:PORT, and not for --carrier exec.")
        }
        guard self.sidecarImage.map({ Self.isImage($0) }) ?? true else {
            throw RequestFailure(.failed, "--sidecar-image is an image's name, such as kl-sidecar:0.1.0.")
        }
        do throws(FlagError) {
            try Flags.checkDistinct(self.portMappings)
        } catch {
            throw RequestFailure(.failed, error.description)
        }
    }

    /// The image becomes an argument of a command, where a leading dash would make it a flag.
    private static func isImage(_ text: String) -> Bool {
        guard let first = text.utf8.first, text.utf8.count <= 512 else { return false }
        let others = "._-/:@".utf8
        func isWord(_ byte: UInt8) -> Bool {
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
        }
        return isWord(first) && text.utf8.allSatisfy { isWord($0) || others.contains($0) }
    }

    /// Options for the sidecars, if the environment makes some for this intercept.
    var sidecarOptions: SidecarOptions {
        func ports(_ transport: Transport) -> [UInt16] {
            self.mappings.map(\.servicePort).filter { $0.transport == transport }.map(\.number)
        }
        return SidecarOptions(image: self.sidecarImage, ports: ports(.tcp), datagramPorts: ports(.udp))
    }

    var carrierChoice: CarrierChoice { self.carrier.flatMap(CarrierChoice.init(rawValue:)) ?? .auto }

    var portMappings: [PortMapping] {
        self.mappings.map { PortMapping($0.servicePort, to: Endpoint(host: $0.host, port: $0.port)) }
    }
}

extension LocalTargets {
    init(_ request: StartRequest) throws(StartError) {
        try self.init(request.portMappings, flag: "--port")
    }
}
