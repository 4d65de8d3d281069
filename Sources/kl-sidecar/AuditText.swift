import HostSupport
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
            ("reason", self.reason.map { .string($0) }),
            ("leftOut", self.leftOut > 0 ? .integer(self.leftOut) : nil),
        ]
        return JSONLine.object(fields.compactMap { name, value in value.map { (name, $0) } })
    }
}
