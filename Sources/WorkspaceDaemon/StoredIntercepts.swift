import FoundationEssentials
import HostSupport

/// `intercepts.json`: what the daemon holds, for the one after it.
struct StoredIntercepts: Codable, Equatable, Sendable {
    struct Intercept: Codable, Equatable, Sendable {
        var request: StartRequest
        var generation: UInt64
        /// RFC 3339, UTC.
        var since: String
        /// Its daemon had ended before; the next one doesn't go on with it either.
        var wasLost: Bool?
    }

    var version = 1
    /// Whoever wrote it ended so that another daemon goes on with them; otherwise it was ended while it held them.
    var areHandedOver = false
    var intercepts: [Intercept] = []

    /// Nothing is read from a file of a later version: what it means isn't known here.
    static func read(_ path: String) throws -> StoredIntercepts {
        guard let bytes = try SmallFile.read(path) else { return StoredIntercepts() }
        do {
            let stored = try JSONDecoder().decode(StoredIntercepts.self, from: Data(bytes))
            guard stored.version == 1 else {
                throw WorkspaceError("\(path) is of a later version of kl. Use that version, or remove the file.")
            }
            return stored
        } catch is DecodingError {
            throw WorkspaceError("\(path) can't be read. Remove it; intercepts that it named can still be stopped.")
        }
    }

    func write(to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        try SmallFile.replace(path, with: Array(try encoder.encode(self)))
    }
}
