import Environments
import HostSupport
import InterceptModel
import SidecarInterface

/// A local environment's current state: what the supervisor wrote last. If the supervisor is gone, processes that have died
/// since are taken out.
struct LocalStatus: Sendable {
    let reference: EnvironmentReference
    let folder: StateFolder
    let isSupervised: Bool
    /// A sidecar that doesn't run or isn't ready has no location.
    let services: [EnvironmentState.ServiceState]

    /// Nil: no process of it lives.
    static func read(
        _ reference: EnvironmentReference,
        in folder: StateFolder
    ) throws(Problem) -> LocalStatus? {
        guard let state = try EnvironmentState.read(from: folder), state.isAlive else { return nil }
        guard state.file == reference.location else {
            throw Problem(
                .notUp,
                "environment \(reference.name.quoted) isn't up, and \(folder.path) is in use by \(state.file)",
                "End that one first: kl env down --file \(state.file.shellQuoted)"
            )
        }
        let isSupervised = state.supervisor.isAlive
        return LocalStatus(
            reference: reference,
            folder: folder,
            isSupervised: isSupervised,
            services: state.services.map { Self.current($0, isSupervised: isSupervised) }
        )
    }

    private static func current(
        _ state: EnvironmentState.ServiceState,
        isSupervised: Bool
    ) -> EnvironmentState.ServiceState {
        var state = state
        for index in state.sidecars.indices {
            let isThere = isSupervised || state.sidecars[index].process?.isAlive == true
            if state.sidecars[index].state != .ready || !isThere { state.sidecars[index].location = nil }
        }
        guard !isSupervised else { return state }
        let mend = "no supervisor runs to start another; kl env up does"
        if state.process?.isAlive != true {
            state.service.state = .stopped
            state.service.reason = "it ended, and \(mend)"
        } else if state.sidecars.contains(where: { $0.location == nil }) {
            state.service.state = .stopped
            state.service.reason = "its sidecar ended, and \(mend)"
        }
        return state
    }

    func find(_ service: String) throws(Problem) -> EnvironmentState.ServiceState {
        if let found = self.services.first(where: { $0.service.name == service }) { return found }
        let suggestion = Suggestion.sentence(for: service, among: self.services.map(\.service.name))
        let mend = suggestion.isEmpty ? " See what is there: kl env status" : "\(suggestion) (kl env status lists them)"
        throw Problem(
            .noSuchService,
            "service \(service.quoted) isn't in environment \(self.reference.name.quoted).\(mend)"
        )
    }

    /// Whether all of the service's sidecars run, and say that they don't know of this holder: its workspace has stopped, or has
    /// been away for longer than a sidecar waits. False also where they can't tell.
    func isUnknown(_ record: InterceptRecord) -> Bool {
        guard self.isSupervised, let service = self.services.first(where: { $0.service.name == record.service }),
            !service.sidecars.isEmpty
        else { return false }
        return service.sidecars.allSatisfy { sidecar in
            guard sidecar.state == .ready, let holders = sidecar.holders else { return false }
            return !holders.contains { $0.key == record.holder.publicKey }
        }
    }

    static func notUp(_ reference: EnvironmentReference) -> Problem {
        Problem(
            .notUp,
            "environment \(reference.name.quoted) isn't up",
            "Bring it up: kl env up --file \(reference.location.shellQuoted)"
        )
    }

    func withoutSidecar(_ service: String) -> Problem {
        self.withoutSupervisor("the sidecar of \(service.quoted) doesn't run")
    }

    /// - Parameter clause: what can't be done without a supervisor.
    func withoutSupervisor(_ clause: String) -> Problem {
        Problem(
            .failed,
            "environment \(self.reference.name.quoted) has no supervisor: \(clause)",
            "Start one, which leaves what runs alone: kl env up --file \(self.reference.location.shellQuoted)"
        )
    }
}
