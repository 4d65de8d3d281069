import ArgumentParser
import Carriers
import CommandText
import HostSupport
import InterceptModel
import InterceptProtocol
import Libc
import NIOCore
import SidecarInterface

struct DialSidecar: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dial",
        abstract: "Be a way to the sidecar that runs here, by standard input and output.",
        discussion: """
            For kubectl exec, docker exec and ssh: what a workspace's exec carrier runs. Without --to it finds the only sidecar \
            of this user's in this network namespace. It ends when either side ends. The tunnel's own keys decide who may \
            connect.
            """
    )

    @Option(
        help: ArgumentHelp(
            "Where the sidecar listens, if there are several: tcp in its ready line.",
            valueName: "host:port"
        ),
        transform: { try Flags.endpoint($0) }
    )
    var to: Endpoint?

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let socket = try self.to.map { try Self.findSidecar(at: $0) ?? TCPConnection.open($0) } ?? self.find()
        switch StandardStreams(socket: socket).carry() {
        case .ended: return
        case .silent:
            throw DialError(
                """
                the sidecar closed the connection without an answer. It doesn't accept the workspace's key, or isn't a \
                sidecar; its log tells.
                """
            )
        case .failed(let reason): throw DialError(reason)
        }
    }

    /// The socket of a sidecar of this user's that listens there: by it the sidecar knows that its peer comes by way of another
    /// program, and that nothing may tell when this way is dead. Nil: there is none, and TCP will do.
    private static func findSidecar(at endpoint: Endpoint) -> CInt? {
        let found = try? DialSocket.connect { tunnel in
            guard let listener = try? Flags.endpoint(tunnel) else { return false }
            return listener == endpoint || "\(endpoint)" == SeveralSidecars.dialled(tunnel)
        }
        guard case .connected(let socket, _) = found else { return nil }
        return socket
    }

    private func find() throws -> CInt {
        switch try DialSocket.connect() {
        case .connected(let socket, _): return socket
        case .none:
            throw DialError(
                "no sidecar runs in this network namespace. Start one by kl-sidecar run, or name it by --to HOST:PORT.",
                code: AdmissionExchange.noSidecar
            )
        case .othersOnly:
            throw DialError(
                "the sidecars here are other users'. Run this as the sidecar's user, or name it by --to HOST:PORT."
            )
        case .several(let tunnels):
            throw DialError("\(tunnels.count) sidecars run here. Say which: \(SeveralSidecars.choices(tunnels)).")
        }
    }
}

/// The flags by which a command can choose one of several sidecars.
enum SeveralSidecars {
    static func choices(_ tunnels: [String]) -> String {
        tunnels.map { "--to \(Self.dialled($0))" }.joined(separator: ", ")
    }

    /// A sidecar that listens on all addresses is dialled at the loopback.
    fileprivate static func dialled(_ tunnel: String) -> String {
        guard var endpoint = try? Flags.endpoint(tunnel) else { return tunnel }
        if endpoint.host == "0.0.0.0" { endpoint.host = "127.0.0.1" }
        if endpoint.host == "::" { endpoint.host = "::1" }
        return "\(endpoint)"
    }
}

struct DialError: ExitCoded, CustomStringConvertible {
    let description: String
    let exitCode: CInt

    init(_ description: String, code: CInt = Ending.failed) {
        self.description = description
        self.exitCode = code
    }
}

/// A plain blocking socket, as there is no event loop here.
private enum TCPConnection {
    private static let patience = timeval(tv_sec: 5, tv_usec: 0)

    static func open(_ endpoint: Endpoint) throws -> CInt {
        let address: SocketAddress
        do {
            address = try SocketAddress.makeAddressResolvingHost(endpoint.host, port: Int(endpoint.port))
        } catch {
            throw DialError("\(endpoint) can't be reached: \(SocketError.describe(error)). Check --to.")
        }
        let family = if case .v6 = address { AF_INET6 } else { AF_INET }
        let descriptor = socket(family, SocketType.stream | SocketType.closedByExec, 0)
        guard descriptor >= 0 else { throw Self.failure(endpoint) }
        Self.limitSending(descriptor, Self.patience)
        let isConnected = address.withSockAddr { address, size in connect(descriptor, address, socklen_t(size)) == 0 }
        guard isConnected else { throw Self.failure(endpoint) }
        if SelfConnection.willReset(descriptor) {
            close(descriptor)
            errno = ECONNREFUSED
            throw Self.failure(endpoint)
        }
        Self.limitSending(descriptor, timeval())
        var on: CInt = 1
        setsockopt(descriptor, CInt(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<CInt>.size))
        return descriptor
    }

    /// The limit applies to connect(2) as well.
    private static func limitSending(_ descriptor: CInt, _ limit: timeval) {
        var limit = limit
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    private static func failure(_ endpoint: Endpoint) -> DialError {
        let code = errno == EINPROGRESS ? ETIMEDOUT : errno
        let error = HostError("\(endpoint) can't be reached", code: code)
        return DialError("\(error). Check --to, and that the sidecar runs.")
    }
}
