/// The service ports that the kernel should redirect.
public struct DivertedPorts: Hashable, Sendable {
    public var tcp: Set<UInt16>
    public var udp: Set<UInt16>

    public init(tcp: Set<UInt16> = [], udp: Set<UInt16> = []) {
        self.tcp = tcp
        self.udp = udp
    }

    public var isEmpty: Bool { self.tcp.isEmpty && self.udp.isEmpty }
}
