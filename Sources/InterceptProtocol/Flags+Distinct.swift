/// Each port of the service may be given only once, as two flags for one port contradict each other.
extension Flags {
    public static func checkDistinct(_ mappings: [PortMapping]) throws(FlagError) {
        try Self.checkDistinct(mappings, by: \.service)
        guard mappings.count <= ControlMessage.Start.maxPortCount else {
            throw FlagError("\(mappings.count) ports are too many. At most \(ControlMessage.Start.maxPortCount).")
        }
    }

    public static func checkDistinct(_ ports: [ServicePort]) throws(FlagError) {
        try Self.checkDistinct(ports, by: \.service)
    }

    private static func checkDistinct<Value: CustomStringConvertible, Port: Hashable>(
        _ values: [Value],
        by port: KeyPath<Value, Port>
    ) throws(FlagError) {
        var seen: [Port: Value] = [:]
        for value in values {
            if let other = seen.updateValue(value, forKey: value[keyPath: port]) {
                throw FlagError("'\(other)' and '\(value)' are for the same port of the service. Give each port once.")
            }
        }
    }
}

extension PortMapping: CustomStringConvertible {
    /// As the flag is written, in full.
    public var description: String {
        "\(self.service.service):\(self.target)\(self.service.transport.suffix)"
    }
}

extension ServicePort: CustomStringConvertible {
    /// As the flag is written, in full.
    public var description: String { "\(self.port):\(self.upstream)\(self.transport.suffix)" }
}
