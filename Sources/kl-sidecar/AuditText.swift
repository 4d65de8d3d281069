import HostSupport
import InterceptModel
import SidecarAgent

extension AuditLine {
    /// One JSON object, whatever the format of the log is.
    var text: String {
        let fields: [(String, JSONLine.Value?)] = [
            ("audit", .string(self.event.rawValue)),
            ("time", .string(self.time.rfc3339WithMilliseconds)),
            ("key", .string(self.key.base64)),
            ("label", .string(self.label)),
            ("address", self.address.map { .string($0) }),
            ("kind", self.kind.map { .string($0.rawValue) }),
            ("ports", .array(self.ports.map { .string("\($0)") })),
            ("morePorts", self.morePorts > 0 ? .integer(UInt64(self.morePorts)) : nil),
            ("result", .string(self.result)),
            ("takenFrom", self.takenFrom.map { .string($0.base64) }),
            ("reason", self.reason.map { .string($0) }),
            ("grant", self.grant.map { .object($0.fields) }),
            ("force", self.isForced ? .bool(true) : nil),
            ("leftOut", self.leftOut > 0 ? .integer(self.leftOut) : nil),
        ]
        return JSONLine.object(fields.compactMap { name, value in value.map { (name, $0) } })
    }
}

extension Grant {
    fileprivate var fields: [(String, JSONLine.Value)] {
        let rights = Right.allCases.filter { self.rights.contains($0) }
        var fields: [(String, JSONLine.Value)] = [("may", .array(rights.map { .string($0.rawValue) }))]
        if let ports = self.ports {
            let named = ports.sorted().prefix(AuditLine.portsAtMost)
            fields.append(("ports", .array(named.map { .string("\($0)") })))
            if ports.count > named.count { fields.append(("morePorts", .integer(UInt64(ports.count - named.count)))) }
        }
        if let until = self.until { fields.append(("until", .string(until.rfc3339))) }
        return fields
    }
}
