import ArgumentParser
import CommandText
import Diversion
import InterceptModel
import InterceptProtocol
import SidecarAgent

/// The value of `--divert`.
enum Diverting: Equatable {
    case listen(Endpoint)
    case listenOnAll(host: String)
    case redirect

    init(_ text: String) throws {
        if text == "redirect" {
            self = .redirect
            return
        }
        guard text.hasPrefix("listen=") else {
            throw FlagError("'\(text)' isn't a way to divert. Write redirect, listen=ADDRESS:PORT or listen=ADDRESS.")
        }
        let value = String(text.dropFirst("listen=".count))
        if let pieces = try? Flags.pieces(value), pieces.count == 1, !pieces[0].isEmpty {
            self = .listenOnAll(host: String(pieces[0]))
        } else {
            self = .listen(try Flags.endpoint(value, zeroAllowed: true))
        }
    }

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
