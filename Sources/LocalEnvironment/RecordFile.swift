import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Noise

/// `record.json`: which workspaces may connect to the environment, and which of them holds which ports: an entry for each
/// service and key.
///
/// Every workspace writes the file itself, under the folder's lock and by replacing it: concurrent changes happen one after
/// the other, and a reader needs no lock. The methods wait for the disk, and for other writers.
public struct RecordFile: Sendable {
    public struct Content: Equatable, Sendable {
        public var members: [Member] = []
        public var intercepts: [InterceptRecord] = []

        public init() {}
    }

    /// The limit of `peers` (`PeersFile`).
    public static let maxMembers = 1_024
    /// As many as a compose file may have services.
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
        guard Content.versions.contains(version.version) else {
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

    /// Records that a key holds ports of a service, unless another key intercepts one of them and `force` is false; with
    /// `force`, such keys lose their entries. An earlier claim of the same key is replaced.
    /// - Parameter isUnknown: whether the sidecars say that they don't know of an entry. After a while such an entry is in
    ///   nobody's way.
    public func claim(
        _ record: InterceptRecord,
        force: Bool,
        at now: UTCTime = .now,
        isUnknown: (InterceptRecord) -> Bool = { _ in false }
    ) throws(Problem) -> ClaimResult {
        let record = try Self.cleaned(record)
        return try self.change { content throws(Problem) in
            Self.forget(isUnknown, inTheWayOf: record, in: &content, at: now)
            let key = record.holder.publicKey
            let place = content.intercepts.firstIndex { $0.service == record.service && $0.holder.publicKey == key }
            if let place, content.intercepts[place].kind != record.kind {
                throw Problem.held(record.service, as: content.intercepts[place].kind)
            }
            let conflicts = content.intercepts.filter { $0.conflicts(with: record) }
            if let first = conflicts.first, !force { return .heldBy(first) }
            if let place {
                content.intercepts[place] = record
            } else if let first = content.intercepts.firstIndex(where: { $0.conflicts(with: record) }) {
                content.intercepts[first] = record
            } else {
                try Self.checkRoom(for: record, in: content)
                content.intercepts.append(record)
            }
            content.intercepts.removeAll { $0.conflicts(with: record) }
            return conflicts.first.map { .takenOver(from: $0) } ?? .claimed
        }
    }

    /// Removes entries that no sidecar knows of and whose workspaces haven't been there for long: at once if they are in the way,
    /// otherwise after a day. Until then a daemon that was only stopped (SIGSTOP) finds its entry again and goes on.
    private static func forget(
        _ isUnknown: (InterceptRecord) -> Bool,
        inTheWayOf record: InterceptRecord,
        in content: inout Content,
        at now: UTCTime
    ) {
        let unknown = Set(content.intercepts.indices.filter { isUnknown(content.intercepts[$0]) })
        // An earlier kl writes no times: such an entry ages from now on.
        for index in unknown where content.intercepts[index].unseenSeconds(at: now) == nil {
            content.intercepts[index].lastSeen = now.rfc3339
        }
        let mirrors = content.intercepts.count { $0.service == record.service && $0.kind == .mirror }
        let isFull = mirrors >= HoldingKind.mirrorsAtMost || content.intercepts.count >= Self.maxIntercepts
        content.intercepts = content.intercepts.enumerated().filter { index, entry in
            guard unknown.contains(index), let seconds = entry.unseenSeconds(at: now) else { return true }
            let isOwn = entry.service == record.service && entry.holder.publicKey == record.holder.publicKey
            let isInTheWay = isFull || isOwn || entry.conflicts(with: record)
            return seconds < (isInTheWay ? InterceptRecord.unseenAtMost : Self.keptAtMost)
        }.map { $0.element }
    }

    /// † In seconds: a day.
    private static let keptAtMost = 86_400

    private static func checkRoom(for record: InterceptRecord, in content: Content) throws(Problem) {
        guard content.intercepts.count < Self.maxIntercepts else {
            throw Problem(.failed, "there are \(Self.maxIntercepts) intercepts already", "Stop one first.")
        }
        let mirrors = content.intercepts.count { $0.service == record.service && $0.kind == .mirror }
        guard record.kind == .intercept || mirrors < HoldingKind.mirrorsAtMost else {
            throw Problem.tooManyMirrors(of: record.service)
        }
    }

    /// Notes that the key's workspace is there, at most once in a while.
    public func touch(service: String, publicKey: String, at now: UTCTime = .now) throws(Problem) {
        func place(in content: Content) -> Int? {
            content.intercepts.firstIndex { one in
                let last = one.lastSeen.flatMap { UTCTime(rfc3339: $0) }
                let isOld = last.map { now.seconds - $0.seconds >= Self.touchesEvery || $0 > now } ?? true
                return one.service == service && one.holder.publicKey == publicKey && isOld
            }
        }
        guard place(in: try self.read()) != nil else { return }
        try self.change { content in
            if let place = place(in: content) { content.intercepts[place].lastSeen = now.rfc3339 }
        }
    }

    /// † In seconds. The sidecars know the time more exactly; this one is for when none of them runs.
    private static let touchesEvery = 60

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
            "Mend it. Removing it cuts off everybody who has joined the environment:"
                + " they must connect and start their intercepts again."
        )
    }

    /// Other users may have written the file: its texts are shown to people, and its keys go into a file that is read line
    /// by line.
    private static func isSound(_ content: Content) -> Bool {
        content.members.count <= Self.maxMembers && content.intercepts.count <= Self.maxIntercepts
            && content.members.allSatisfy { (try? Self.sound($0)) == $0 }
            && content.intercepts.allSatisfy { record in
                (try? Self.sound(record.holder)) == record.holder && record.service == record.service.printable
                    && record.since == record.since.printable && record.lastSeen == record.lastSeen?.printable
                    && record.ports.count <= 65_535
                    && record.ports.allSatisfy { $0.target == $0.target.printable }
            } && Self.isFreeOfConflicts(content.intercepts)
    }

    private static func isFreeOfConflicts(_ records: [InterceptRecord]) -> Bool {
        Dictionary(grouping: records, by: \.service).values.allSatisfy { ofOne in
            let keys = Set(ofOne.map(\.holder.publicKey))
            let intercepts = ofOne.filter { $0.kind == .intercept }
            let ports = intercepts.flatMap { Set($0.ports.map(\.port)) }
            return keys.count == ofOne.count && ofOne.count - intercepts.count <= HoldingKind.mirrorsAtMost
                && Set(ports).count == ports.count
                && (intercepts.count <= 1 || intercepts.allSatisfy { !$0.ports.isEmpty })
        }
    }

    /// As it is stored. What the sidecars report is read from them when it is needed.
    private static func cleaned(_ record: InterceptRecord) throws(Problem) -> InterceptRecord {
        var record = record
        record.service = record.service.printable
        record.isDiverting = nil
        record.connections = nil
        record.holder = try Self.sound(record.holder)
        record.since = record.since.printable
        record.lastSeen = record.lastSeen?.printable
        record.ports = record.ports.map {
            InterceptRecord.Port(service: $0.service, transport: $0.transport, target: $0.target.printable)
        }
        return record
    }

    private static func sound(_ member: Member) throws(Problem) -> Member {
        guard PublicKey(base64: member.publicKey) != nil else {
            throw Problem(.failed, "\(member.publicKey.quoted) isn't a public key", "Make one with kl pubkey.")
        }
        return Member(label: member.label.printable, publicKey: member.publicKey)
    }
}

extension InterceptRecord {
    /// In seconds: as long as a sidecar waits for a workspace (`--linger`).
    static let unseenAtMost = 600

    /// For how long the workspace hasn't been heard of. Nil: that isn't known, or the time is one that hasn't come yet.
    func unseenSeconds(at now: UTCTime) -> Int? {
        guard let last = self.lastSeen.flatMap({ UTCTime(rfc3339: $0) }), last <= now else { return nil }
        return now.seconds - last.seconds
    }
}

extension RecordFile.Content: Codable {
    static let versions = 1...2

    private enum CodingKeys: CodingKey {
        case version, members, intercepts
    }

    /// Version 1 has at most one entry for a service, and only intercepts. It is written as long as it can say everything, so
    /// that developers with an earlier kl can still use the environment.
    var version: Int {
        let isPlain = self.intercepts.allSatisfy { $0.kind == .intercept }
        return isPlain && Set(self.intercepts.map(\.service)).count == self.intercepts.count ? 1 : 2
    }

    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        self.members = try values.decode([Member].self, forKey: .members)
        self.intercepts = try values.decode([InterceptRecord].self, forKey: .intercepts)
    }

    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(self.version, forKey: .version)
        try values.encode(self.members, forKey: .members)
        try values.encode(self.intercepts, forKey: .intercepts)
    }
}
