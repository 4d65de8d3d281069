import Environments
import InterceptProtocol

extension Environments.Service.Port {
    /// "8080", "8080 (http)"
    var text: String { self.name.map { "\(self.published) (\($0.printable))" } ?? "\(self.published)" }
}
