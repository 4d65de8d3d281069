public import InterceptModel

/// The service ports that the kernel should redirect, by transport: it has a set of numbers for each.
public struct DivertedPorts: Hashable, Sendable {
    public var tcp: Set<UInt16>
    public var udp: Set<UInt16>

    public init(tcp: Set<UInt16> = [], udp: Set<UInt16> = []) {
        self.tcp = tcp
        self.udp = udp
    }

    public init(_ ports: some Sequence<ServicePort>) {
        func numbers(_ transport: Transport) -> Set<UInt16> {
            Set(ports.lazy.filter { $0.transport == transport }.map(\.number))
        }
        self.init(tcp: numbers(.tcp), udp: numbers(.udp))
    }

    public var isEmpty: Bool { self.tcp.isEmpty && self.udp.isEmpty }
}
