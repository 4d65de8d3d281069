import Environments
import FoundationEssentials
import HostSupport
import InterceptModel

/// What is used here of the engine's description of a container. Labels, names and addresses come from others: don't trust
/// them.
struct DockerContainer: Decodable, Equatable, Sendable {
    struct Network: Decodable, Equatable, Sendable {
        var IPAddress: String?
        var Gateway: String?
        var GlobalIPv6Address: String?
        var IPv6Gateway: String?
    }

    struct Binding: Decodable, Equatable, Sendable {
        var HostIp: String?
        var HostPort: String?
    }

    struct Nothing: Decodable, Equatable, Sendable {}

    var id: String
    var name: String
    /// The name given when the container was made; not every engine writes it as it was typed.
    var image: String?
    var imageID: String?
    var labels: [String: String]?
    var exposed: [String: Nothing]?
    /// `shop_default`, `container:…`, `host`, `none`; `ns:…` with podman
    var mode: String?
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`
    var status: String
    var exit: Int?
    var started: String?
    /// `starting`, `healthy`, `unhealthy`
    var health: String?
    /// The signal that asks it to end, and how many seconds it has then: `SIGQUIT`, `15`; empty or nil: SIGTERM, 10.
    var stopSignal: String?
    var stopTimeout: Int?
    /// The number of its first process on the engine's machine; 0: none runs.
    var process: Int32?
    /// The path of its network namespace on the engine's machine.
    var sandbox: String?
    var ports: [String: [Binding]?]?
    var networks: [String: Network]?

    /// The client prints this for each container, on one line; the complete description would be long.
    static let format = """
        {"id":{{json .ID}},"name":{{json .Name}},"image":{{json .Config.Image}},"imageID":{{json .Image}},"labels":{{json .Config.Labels}},\
        "exposed":{{json .Config.ExposedPorts}},"mode":{{json .HostConfig.NetworkMode}},\
        "status":{{json .State.Status}},"exit":{{json .State.ExitCode}},"started":{{json .State.StartedAt}},"process":{{json .State.Pid}},\
        "health":{{with .State.Health}}{{json .Status}}{{else}}null{{end}},\
        "stopSignal":{{json .Config.StopSignal}},"stopTimeout":{{json .Config.StopTimeout}},\
        "sandbox":{{json .NetworkSettings.SandboxKey}},\
        "ports":{{json .NetworkSettings.Ports}},"networks":{{json .NetworkSettings.Networks}}}
        """

    /// Skips lines that can't be parsed, so one odd container hides no other.
    static func parse(_ lines: String) -> [DockerContainer] {
        let decoder = JSONDecoder()
        return lines.split(separator: "\n").compactMap { line in
            guard var container = try? decoder.decode(Self.self, from: Data(line.utf8)),
                DockerPlace.isSoundName(container.id)
            else { return nil }
            if container.name.hasPrefix("/") { container.name.removeFirst() }
            return DockerPlace.isSoundName(container.name) ? container : nil
        }
    }

    func label(_ name: String) -> String? { self.labels?[name] }

    var isRunning: Bool { self.status == "running" }

    /// Exposed or published ports, sorted.
    var servicePorts: [ServicePort] {
        let names = (self.exposed.map { Array($0.keys) } ?? []) + (self.ports.map { Array($0.keys) } ?? [])
        return Set(names.compactMap(Self.port)).sorted()
    }

    /// `80`, `80/tcp`, `53/udp`; nil for any other text.
    static func port(_ text: String) -> ServicePort? {
        let pieces = text.split(separator: "/", omittingEmptySubsequences: false)
        guard pieces.count <= 2, let transport = pieces.count == 1 ? .tcp : Transport(rawValue: String(pieces[1])),
            let port = UInt16(pieces[0]), port > 0
        else { return nil }
        return ServicePort(port, transport)
    }

    /// The IPv4 addresses on the engine's machine at which its TCP ports are published.
    var places: [String] {
        var places: [String] = []
        for (name, bindings) in self.ports ?? [:] where Self.port(name)?.transport == .tcp {
            for binding in bindings ?? [] {
                guard let port = binding.HostPort.flatMap({ UInt16($0) }), port > 0 else { continue }
                let host = binding.HostIp ?? ""
                if host.contains(":") { continue }
                places.append("\(host.isEmpty ? "0.0.0.0" : host):\(port)")
            }
        }
        return Set(places).sorted()
    }

    /// The port numbers on the engine's machine under which its ports are published.
    var publications: [Service.Publication] {
        let all = (self.ports ?? [:]).flatMap { name, bindings -> [Service.Publication] in
            guard let port = Self.port(name) else { return [] }
            return (bindings ?? []).compactMap { binding in
                binding.HostPort.flatMap { UInt16($0) }.flatMap { $0 > 0 ? .init(host: $0, port: port) : nil }
            }
        }
        return Set(all).sorted { ($0.host, $0.port) < ($1.host, $1.port) }
    }

    /// Sorted by network name, as the client does.
    private var networksInOrder: [Network] { (self.networks ?? [:]).sorted { $0.key < $1.key }.map(\.value) }

    /// The container's first IPv4 address, or else its first IPv6 address.
    var address: String? {
        let networks = self.networksInOrder
        return networks.lazy.compactMap { Self.address($0.IPAddress) }.first
            ?? networks.lazy.compactMap { Self.address($0.GlobalIPv6Address) }.first
    }

    /// The engine's machine as this container sees it; health probes come from these addresses.
    var gateways: [String] {
        self.networksInOrder.flatMap { [Self.address($0.Gateway), Self.address($0.IPv6Gateway)].compactMap(\.self) }
    }

    private static func address(_ text: String?) -> String? {
        guard let text, !text.isEmpty, text.utf8.count <= 45,
            text.utf8.allSatisfy({ $0.isAlphanumeric || $0 == 0x2E || $0 == 0x3A })
        else { return nil }
        return text
    }

    /// Whether the container has a network namespace of its own.
    var hasOwnNetwork: Bool {
        let mode = self.mode ?? ""
        return mode != "host" && mode != "none" && self.sharedWith == nil && self.sharedNamespace == nil
    }

    /// The container whose network it shares.
    var sharedWith: String? { self.mode.flatMap { $0.hasPrefix("container:") ? String($0.dropFirst(10)) : nil } }

    /// The path of the namespace it was given in place of a container's.
    var sharedNamespace: String? { self.mode.flatMap { $0.hasPrefix("ns:/") ? String($0.dropFirst(3)) : nil } }

    /// The path of its own network namespace, if it is safe to use as a command argument.
    var namespace: String? {
        guard let sandbox = self.sandbox, sandbox.hasPrefix("/"), sandbox.utf8.count <= 256,
            sandbox.utf8.allSatisfy({ $0.isAlphanumeric || [0x2D, 0x2E, 0x2F, 0x5F].contains($0) })
        else { return nil }
        return sandbox
    }

    /// Some engines write an image's id with its algorithm, others without.
    static func bareID(_ text: String) -> String {
        text.hasPrefix("sha256:") ? String(text.dropFirst(7)) : text
    }

    /// Whether this machine's process of that number belongs to the container, by the name of its control group. The engine
    /// may run on another machine or in another process namespace, also where its socket is a file on this one.
    static func isProcess(_ process: Int32, of container: String) -> Bool {
        guard let groups = (try? SmallFile.read("/proc/\(process)/cgroup")) ?? nil else { return false }
        return container.utf8.count >= 12 && String(decoding: groups, as: UTF8.self).contains(container)
    }

    /// Whether this signal ends the container: its stop signal, or SIGKILL.
    func ends(by signal: String) -> Bool {
        let wanted = self.stopSignal.flatMap { $0.isEmpty ? nil : $0 } ?? "SIGTERM"
        guard let sent = StopSignal.number(signal) else { return false }
        return sent == 9 || sent == StopSignal.number(wanted)
    }
}

extension DockerContainer {
    /// Whether one of two times of the engine is later. It writes all alike, in UTC, but omits trailing zeroes of the fraction.
    static func isLater(_ first: String, than second: String) -> Bool {
        func parts(_ text: String) -> (Substring, Substring) {
            let end = text.hasSuffix("Z") ? text.dropLast() : text[...]
            guard let dot = end.firstIndex(of: ".") else { return (end, "") }
            return (end[..<dot], end[end.index(after: dot)...])
        }
        let (one, two) = (parts(first), parts(second))
        guard one.0 == two.0 else { return one.0 > two.0 }
        let length = max(one.1.count, two.1.count)
        func filled(_ text: Substring) -> String { text + String(repeating: "0", count: length - text.count) }
        return filled(one.1) > filled(two.1)
    }
}
