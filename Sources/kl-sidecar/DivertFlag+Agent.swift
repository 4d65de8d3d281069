import ArgumentParser
import Diversion
import InterceptModel
import SidecarAgent
import SidecarInterface

extension DivertFlag {
    func resolved(loopback: RedirectDiversion.Loopback) -> SidecarAgent.Divert {
        switch self {
        case .listen(let endpoint): .listen(endpoint)
        case .listenOnAll(let host): .listenOnAll(host: host)
        case .redirect: .redirect(loopback: loopback)
        }
    }

    /// Where this process would listen itself; nil with redirect.
    func endpoint(of port: UInt16) -> Endpoint? { self.resolved(loopback: .original).endpoint(of: port) }
}

extension RedirectDiversion.Loopback: ExpressibleByArgument {}
