import ArgumentParser
import CSpawn
import CommandText
import HostSupport
import InterceptModel
import Libc
import Noise
import ProgramSupport
import SidecarInterface

struct AdmitKey: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "admit",
        abstract: "Have the sidecar that runs here accept a workspace's key.",
        discussion: """
            For docker exec and kubectl exec: whoever may run a program in the sidecar's container decides whom it accepts. \
            Prints one JSON line: with "admitted":true what the sidecar's ready line has; otherwise why not, with code 1.
            """
    )

    @Argument(help: ArgumentHelp("The workspace's public key.", valueName: "key"), transform: PublicKey.flag)
    var key: PublicKey

    @Option(help: ArgumentHelp("The workspace's name, as others see it.", valueName: "name"))
    var label: String?

    @Option(
        help: ArgumentHelp(
            "What the key may do, with commas between: intercept, mirror, take-over, refuse. (default: all that the "
                + "sidecar allows)",
            valueName: "rights"
        ),
        transform: { try Admission.rights($0) }
    )
    var may: Set<Right>?

    @Option(
        help: ArgumentHelp(
            "The service ports that the key may hold, such as 80,53/udp. (default: all)",
            valueName: "ports"
        ),
        transform: { try Admission.ports($0) }
    )
    var ports: Set<ServicePort>?

    @Option(
        help: ArgumentHelp("When the key is accepted no more, such as 2026-12-01T00:00:00Z.", valueName: "time"),
        transform: { try Admission.time($0) }
    )
    var until: UTCTime?

    @Option(
        help: ArgumentHelp(
            "Hold these ports for the key at once, for 30 s until its workspace connects: intercept:80,53/udp or "
                + "mirror:80. If another workspace has one of them, the key isn't admitted.",
            valueName: "kind:ports"
        ),
        transform: { try Admission.Claim($0) }
    )
    var claim: Admission.Claim?

    @Flag(help: "With --claim: take the ports over from the workspace that has them.")
    var force = false

    @OptionGroup var sidecar: AskedSidecar

    var admission: Admission {
        var grant: Grant?
        if self.may != nil || self.ports != nil || self.until != nil {
            grant = Grant(self.may ?? Grant.everything.rights, ports: self.ports, until: self.until)
        }
        return Admission(self.key.base64, label: self.label, grant: grant, claim: self.claim)
    }

    func validate() throws {
        if self.force, self.claim == nil { throw ValidationError("--force goes with --claim alone.") }
    }

    func run() throws { try self.sidecar.ask(.admit(line: "\(self.admission)", force: self.force)) }
}

struct LeaveSidecar: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "leave",
        abstract: "Have the sidecar that runs here end what a key holds, and forget the key.",
        discussion: """
            Prints one JSON line: "left" tells whether the sidecar knew the key, "isLast" whether no key is left. A sidecar \
            with --ephemeral then ends, once the connections that it passes on have ended.
            """
    )

    @Argument(help: ArgumentHelp("The workspace's public key.", valueName: "key"), transform: PublicKey.flag)
    var key: PublicKey

    @OptionGroup var sidecar: AskedSidecar

    func run() throws { try self.sidecar.ask(.leave(key: self.key.base64)) }
}

struct EndSidecar: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "end",
        abstract: "End the sidecar that runs here, as SIGTERM does.",
        discussion: """
            Prints one JSON line: "ending" tells whether it ends. With --if-unused it may refuse, with "reason" and code 1.
            """
    )

    @Flag(help: "Only if it accepts no key and passes on no connection.")
    var ifUnused = false

    @Option(
        help: ArgumentHelp("With --if-unused: this key doesn't count; may be repeated.", valueName: "key"),
        transform: PublicKey.flag
    )
    var except: [PublicKey] = []

    @OptionGroup var sidecar: AskedSidecar

    func validate() throws {
        if !self.except.isEmpty, !self.ifUnused { throw ValidationError("--except goes with --if-unused alone.") }
    }

    func run() throws {
        try self.sidecar.ask(self.ifUnused ? .endIfUnused(except: self.except.map(\.base64)) : .end)
    }
}

struct ShowHolders: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "holders",
        abstract: "Print the ready line of the sidecar that runs here, with who holds which ports now."
    )

    @OptionGroup var sidecar: AskedSidecar

    func run() throws { try self.sidecar.ask(.holders) }
}

/// The running sidecar that is meant, and how it is asked.
struct AskedSidecar: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Which sidecar, if there are several: tcp in its ready line.",
            valueName: "host:port"
        ),
        transform: { try Flags.endpoint($0) }
    )
    var to: Endpoint?

    /// Prints the answer. Ends the program if the sidecar didn't do what was asked.
    func ask(_ request: AdmissionSocket.Request) throws {
        signal(SIGPIPE, SIG_IGN)
        // The sidecar looks up this program in /proc. The kernel forbids that, even to the same user, if this program has got
        // capabilities by its file, or has more of them than the sidecar, as after nsenter.
        kl_be_visible()
        switch try self.answer(to: request) {
        case .ended where kl_drop_capabilities() == 0: try self.finish(try self.answer(to: request))
        case let received: try self.finish(received)
        }
    }

    private typealias Received = JSONLinesClient.Received<AdmissionSocket.Reply>

    private func answer(to request: AdmissionSocket.Request) throws -> Received {
        let client = JSONLinesClient(descriptor: try self.find(), name: "the sidecar")
        try? client.send(request)
        return (try? client.receive(AdmissionSocket.Reply.self, within: AdmissionSocket.patience)) ?? .ended
    }

    private func finish(_ received: Received) throws {
        switch received {
        case .message(let reply):
            Console.write(reply.line + "\n", to: STDOUT_FILENO)
            if !reply.isDone { Ending(text: "", code: Ending.failed).exit() }
        case .ended:
            throw DialError(
                """
                the sidecar closed the connection without an answer. It obeys its own user, and root where it may look at \
                root's processes, in its own container or mount namespace. Its log tells why it refused this program.
                """
            )
        case .timedOut, .interrupted: throw DialError("the sidecar doesn't answer. Look into its log.")
        }
    }

    private func find() throws -> CInt {
        switch try AdmissionSocket.connect(to: self.to) {
        case .connected(let socket, _): return socket
        case .none:
            let which = self.to.map { "no sidecar whose tunnel listens at \($0)" } ?? "no sidecar"
            throw DialError(
                "\(which) runs in this network namespace. Run this command where the sidecar runs: docker exec CONTAINER kl-sidecar …",
                code: AdmissionExchange.noSidecar
            )
        case .othersOnly:
            throw DialError(
                """
                the sidecars here are other users', or in other containers. Run this where the sidecar runs, as its user: in its \
                container, or by nsenter --target PID --mount --net kl-sidecar …, PID being the sidecar's.
                """
            )
        case .several(let tunnels):
            throw DialError("\(tunnels.count) sidecars run here. Say which: \(SeveralSidecars.choices(tunnels)).")
        }
    }
}
