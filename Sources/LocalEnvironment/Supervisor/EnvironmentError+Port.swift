import ComposeFiles
import Environments
import HostSupport
import Libc

extension EnvironmentError {
    /// The error for a public port that can't be opened.
    static func port(_ port: ComposePort, of service: String, _ error: HostError) -> EnvironmentError {
        let what = "port \(port.publishedPort) of service '\(service)' can't be opened on \(port.hostAddress)"
        switch error.code {
        case EADDRINUSE:
            let holder = port.transport == .tcp ? PortOwner.describe(port.published) : nil
            let owner = holder.map { "\($0) has it" } ?? "another process has it"
            return EnvironmentError(
                .failed,
                "\(what): \(owner). Stop that, or publish another port in the compose file."
            )
        case EADDRNOTAVAIL:
            return EnvironmentError(
                .failed,
                "\(what): that isn't an address of this machine. Name another one in the compose file, or none."
            )
        case EACCES:
            return EnvironmentError(
                .failed,
                "\(what): only root may have ports below 1024. Publish a higher one in the compose file."
            )
        default: return EnvironmentError(HostError(what, code: error.code))
        }
    }
}
