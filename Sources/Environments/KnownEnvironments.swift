import FoundationEssentials
import HostSupport

/// `environments.json`: the environments that were connected to before, the last first. A memory and no more: what can't be
/// read in it is forgotten.
public enum KnownEnvironments {
    /// † Older ones are forgotten.
    private static let maxCount = 100

    public static func read(_ path: String) -> [EnvironmentReference] {
        guard let bytes = (try? SmallFile.read(path)) ?? nil else { return [] }
        let known = (try? JSONDecoder().decode([EnvironmentReference].self, from: Data(bytes))) ?? []
        return Array(known.prefix(Self.maxCount))
    }

    public static func remember(_ reference: EnvironmentReference, in path: String) throws(EnvironmentError) {
        let others = Self.read(path).filter { $0.kind != reference.kind || $0.location != reference.location }
        guard let data = try? JSONEncoder().encode(Array(([reference] + others).prefix(Self.maxCount))) else { return }
        do throws(HostError) { try SmallFile.replace(path, with: Array(data)) } catch { throw EnvironmentError(error) }
    }
}
