import Environments
import InterceptModel
import InterceptProtocol

extension Environments.Service.Port {
    /// "8080", "8080 (http)", "53/udp"
    var text: String {
        let number = "\(self.published)\(self.isUDP ? "/udp" : "")"
        return self.name.map { "\(number) (\($0.printable))" } ?? number
    }
}
