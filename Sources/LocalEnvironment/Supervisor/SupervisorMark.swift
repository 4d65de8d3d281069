import HostSupport

/// A variable in the environment of each of an environment's processes: which environment it belongs to, and its role.
///
/// `state.json` lacks a process that was started just when the supervisor was killed, and processes that a service left
/// outside of its group; they are found by this mark.
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

    /// All marked processes, except those with these roles.
    func processes(except roles: Set<Role> = []) -> [ProcessIdentity] {
        let kept = Set(roles.map(\.text))
        return RunningProcesses.withEnvironment(Self.variable, prefix: "\(self.folder):")
            .filter { !kept.contains($0.rest) }
            .map(\.process)
    }
}
