import Environments
import InterceptProtocol

extension Environments.Service.Port {
    /// "8080", "8080 (http)"
    var text: String { self.name.map { "\(self.published) (\($0.printable))" } ?? "\(self.published)" }
}

extension Environments.Service {
    /// A line of a picker: "api-server (running) - ports: 8080, 9090"
    var pickerText: String {
        let ports = self.ports.isEmpty ? "none" : self.ports.map(\.text).joined(separator: ", ")
        return "\(self.name.printable) (\(self.state.rawValue)) - ports: \(ports)"
    }
}
