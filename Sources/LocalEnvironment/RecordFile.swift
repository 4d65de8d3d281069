import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Noise

/// `record.json`: which workspaces may connect to the environment, and which of them intercepts what.
///
/// Every workspace writes the file itself, under the folder's lock and by replacing it: concurrent changes happen one after
/// the other, and a reader needs no lock. The methods wait for the disk, and for other writers.
public struct RecordFile: Sendable {
    public struct Content: Codable, Equatable, Sendable {
        public static let currentVersion = 1

        public var version = Self.currentVersion
        public var members: [Member] = []
        public var intercepts: [InterceptRecord] = []

        public init() {}
    }

    /// The limit of `peers` (`PeersFile`).
    public static let maxMembers = 1_024
    /// One for each service that a compose file may have.
    public static let maxIntercepts = 1_000

    private let folder: StateFolder

    public init(in folder: StateFolder) { self.folder = folder }

    /// Empty if the file doesn't exist.
    public func read() throws(Problem) -> Content {
        let bytes: [UInt8]?
        do throws(HostError) { bytes = try SmallFile.read(self.folder.record, atMost: Self.maxBytes) } catch {
            throw Problem(error)
        }
        guard let bytes else { return Content() }
        struct Version: Decodable { var version: Int }
        let data = Data(bytes)
        guard let version = try? JSONDecoder().decode(Version.self, from: data) else { throw self.broken }
        guard version.version == Content.currentVersion else {
            throw Problem(
                .failed,
                "\(self.folder.record) was written by another version of kl",
                "Use that version to end the environment" + " (kl env down), then try again."
            )
        }
        guard let content = try? JSONDecoder().decode(Content.self, from: data), Self.isSound(content) else {
            throw self.broken
        }
        return content
    }

    /// Records that a service is intercepted, unless another key has claimed it and `force` is false. A claim of the same
    /// key is replaced.
    public func claim(_ record: InterceptRecord, force: Bool) throws(Problem) -> ClaimResult {
        var record = record
        record.service = record.service.printable
        // These are asked from the sidecars when needed, and not stored.
        record.isDiverting = nil
        record.connections = nil
        record.holder = try Self.sound(record.holder)
        record.since = record.since.printable
        record.ports = record.ports.map {
            InterceptRecord.Port(service: $0.service, transport: $0.transport, target: $0.target.printable)
        }
        return try self.change { content throws(Problem) in
            guard let index = content.intercepts.firstIndex(where: { $0.service == record.service }) else {
                guard content.intercepts.count < Self.maxIntercepts else {
                    throw Problem(
                        .failed,
                        "there are \(Self.maxIntercepts) intercepts already",
                        "Stop one first."
                    )
                }
                content.intercepts.append(record)
                return .claimed
            }
            let current = content.intercepts[index]
            let isOwn = current.holder.publicKey == record.holder.publicKey
            guard isOwn || force else { return .heldBy(current) }
            content.intercepts[index] = record
            return isOwn ? .claimed : .takenOver(from: current)
        }
    }

    /// Removes the claim if it is this key's.
    /// - Returns: whether it was.
    @discardableResult
    public func release(service: String, publicKey: String) throws(Problem) -> Bool {
        try self.change { content in
            let count = content.intercepts.count
            content.intercepts.removeAll { $0.service == service && $0.holder.publicKey == publicKey }
            return content.intercepts.count < count
        }
    }

    /// Adds a member. A key that is already there gets the new label.
    /// - Returns: whether the key is new.
    @discardableResult
    public func add(_ member: Member) throws(Problem) -> Bool {
        let member = try Self.sound(member)
        return try self.change { content throws(Problem) in
            if let index = content.members.firstIndex(where: { $0.publicKey == member.publicKey }) {
                content.members[index] = member
                return false
            }
            guard content.members.count < Self.maxMembers else {
                throw Problem(
                    .failed,
                    "the environment has \(Self.maxMembers) members already, and that is the most",
                    "End it with kl env down," + " remove \(self.folder.record), and bring it up again."
                )
            }
            content.members.append(member)
            return true
        }
    }

    /// - Returns: whether the key was a member's.
    @discardableResult
    public func removeMember(publicKey: String) throws(Problem) -> Bool {
        try self.change { content in
            let count = content.members.count
            content.members.removeAll { $0.publicKey == publicKey }
            return content.members.count < count
        }
    }

    // MARK: - The file

    /// More than a file within the limits above can take.
    private static let maxBytes = 4 * 1_048_576

    private func change<Result>(
        _ body: (inout Content) throws(Problem) -> Result
    ) throws(Problem) -> Result {
        let lock = try self.folder.acquireLock()
        let before = try self.read()
        var content = before
        let result = try body(&content)
        if content != before { try self.write(content) }
        // The compiler may end a value's life after its last use; hold the lock until here.
        withExtendedLifetime(lock) {}
        return result
    }

    private func write(_ content: Content) throws(Problem) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(content) else {
            throw Problem(.failed, "\(self.folder.record) can't be written", "Look at what is in it.")
        }
        do throws(HostError) {
            try SmallFile.replace(self.folder.record, with: Array(data), mode: self.folder.fileMode)
        } catch {
            throw Problem(error)
        }
    }

    private var broken: Problem {
        Problem(
            .failed,
            "\(self.folder.record) isn't as kl wrote it",
            "Remove the file, then start your intercepts again:" + " it says who may connect, and who intercepts what."
        )
    }

    /// Other users may have written the file: its texts are shown to people, and its keys go into a file that is read line
    /// by line.
    private static func isSound(_ content: Content) -> Bool {
        content.members.count <= Self.maxMembers && content.intercepts.count <= Self.maxIntercepts
            && content.members.allSatisfy { (try? Self.sound($0)) == $0 }
            && content.intercepts.allSatisfy { record in
                (try? Self.sound(record.holder)) == record.holder && record.service == record.service.printable
                    && record.since == record.since.printable && record.ports.count <= 65_535
                    && record.ports.allSatisfy { $0.target == $0.target.printable }
            }
    }

    private static func sound(_ member: Member) throws(Problem) -> Member {
        guard PublicKey(base64: member.publicKey) != nil else {
            throw Problem(.failed, "\(member.publicKey.quoted) isn't a public key", "Make one with kl pubkey.")
        }
        return Member(label: member.label.printable, publicKey: member.publicKey)
    }
}
