import HostSupport

/// What each process of an environment has among its variables: whose it is, and what for.
///
/// `state.json` can't name a process that was started in the moment in which the supervisor was killed, nor what a service left
/// behind outside its group; this finds them.
struct SupervisorMark {
    static let variable = "KL_SUPERVISED"

    enum Role: Hashable {
        case service(String)
        case sidecar(String)

        var text: String {
            switch self {
            case .service(let name): "service:\(name)"
            case .sidecar(let name): "sidecar:\(name)"
            }
        }
    }

    let folder: String

    func value(for role: Role) -> String { "\(self.folder):\(role.text)" }

    /// All but those of these roles.
    func processes(except roles: Set<Role> = []) -> [ProcessIdentity] {
        let kept = Set(roles.map(\.text))
        return RunningProcesses.withEnvironment(Self.variable, prefix: "\(self.folder):")
            .filter { !kept.contains($0.rest) }
            .map(\.process)
    }
}
