import FoundationEssentials
import HostSupport
import InterceptModel
import WorkspaceAPI

/// `intercepts.json`: the daemon's intercepts, for the next daemon.
struct StoredIntercepts: Codable, Equatable, Sendable {
    struct Intercept: Codable, Equatable, Sendable {
        var request: StartRequest
        var generation: UInt64
        /// RFC 3339, UTC.
        var since: String
        /// It was already lost when this was written: the next daemon doesn't resume it either.
        var wasLost: Bool?
    }

    var version = 1
    /// True: the daemon that wrote this ended in order to hand its intercepts over. False: it was ended while it held them.
    var areHandedOver = false
    var intercepts: [Intercept] = []
    /// What is wrong with those in the file that can't be asked for by this version.
    private(set) var leftOut: [Problem] = []

    enum CodingKeys: CodingKey {
        case version, areHandedOver, intercepts
    }

    /// Throws for a file of a later version, whose meaning isn't known here.
    static func read(_ path: String) throws -> StoredIntercepts {
        guard let bytes = try SmallFile.read(path) else { return StoredIntercepts() }
        do {
            let stored = try JSONDecoder().decode(StoredIntercepts.self, from: Data(bytes))
            guard stored.version == 1 else {
                throw Problem(.failed, "\(path) is of a later version of kl", "Use that version, or remove the file.")
            }
            return stored
        } catch is DecodingError {
            throw Problem(.failed, "\(path) can't be read", "Remove it; intercepts that it named can still be stopped.")
        }
    }

    func write(to path: String) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        try SmallFile.replace(path, with: Array(try encoder.encode(self)))
    }
}

extension StoredIntercepts {
    init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        self.version = try values.decode(Int.self, forKey: .version)
        self.areHandedOver = try values.decode(Bool.self, forKey: .areHandedOver)
        for one in try values.decode([Checked<Intercept>].self, forKey: .intercepts) {
            switch one.result {
            case .success(let intercept): self.intercepts.append(intercept)
            case .failure(let problem): self.leftOut.append(problem)
            }
        }
    }
}

/// A value as it was read, or what is wrong with it, if it can be read and isn't sound.
struct Checked<Value: Decodable>: Decodable {
    let result: Result<Value, Problem>

    init(from decoder: any Decoder) throws {
        do {
            self.result = .success(try Value(from: decoder))
        } catch let problem as Problem {
            self.result = .failure(problem)
        }
    }
}
