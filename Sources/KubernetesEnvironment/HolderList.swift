import CommandText
import Environments
import FoundationEssentials
import InterceptModel
import Noise

/// Who holds ports of a Service, as an annotation of the Service says.
///
/// It decides which of two claims wins: it is changed by a patch that names the resourceVersion it was read in, so of two changes
/// the API server refuses one. What keys, fields and values it doesn't know, this version leaves as they are.
///
/// ```
///   {"holders":[{"key":"…","kind":"intercept","label":"ada@thinkpad","lastSeen":"…","ports":[80,"53/udp"],"since":"…"}],"version":1}
/// ```
struct HolderList: Equatable, Sendable {
    static let annotation = "kl.io/holders"
    private static let version: Int64 = 1
    /// † More than a sidecar admits.
    static let entriesAtMost = 64
    private static let bytesAtMost = 16 * 1_024
    /// † Three times as long as a workspace's daemon lets pass between two renewals.
    static let staleAfter: Int64 = 180_000
    /// † In milliseconds: a clock may be ahead of this machine's; an entry from further ahead would keep a port for good.
    static let aheadAtMost: Int64 = 3_600_000
    /// In milliseconds.
    static let renewedAfter: Int64 = 60_000

    private(set) var entries: [Entry] = []
    private var more: [String: JSONValue] = [:]

    struct Entry: Equatable, Sendable {
        var key: String
        var label: String
        /// As it is written.
        private var kindText: String
        var ports: Set<ServicePort>
        var since: String
        var lastSeen: String?
        fileprivate var more: [String: JSONValue] = [:]

        /// A kind that only later versions know counts as one that takes its ports for itself.
        var kind: HoldingKind { HoldingKind(rawValue: self.kindText) ?? .intercept }

        init(_ record: InterceptRecord, at now: UTCTime) {
            self.key = record.holder.publicKey
            self.label = record.holder.label
            self.kindText = record.kind.rawValue
            self.ports = Set(record.ports.map(\.port))
            self.since = record.since
            self.lastSeen = now.rfc3339
        }

        fileprivate init?(_ value: JSONValue) {
            guard case .object(var fields) = value,
                let key = fields.removeValue(forKey: "key")?.string, PublicKey(base64: key) != nil,
                case .array(let ports)? = fields.removeValue(forKey: "ports"), ports.count <= ServicePort.maxCount
            else { return nil }
            self.key = key
            self.label = (fields.removeValue(forKey: "label")?.string ?? "").printable
            self.kindText = fields.removeValue(forKey: "kind")?.string ?? HoldingKind.intercept.rawValue
            self.since = (fields.removeValue(forKey: "since")?.string ?? "").printable
            self.lastSeen = fields.removeValue(forKey: "lastSeen")?.string.map(\.printable)
            self.ports = []
            for port in ports {
                guard let port = Self.port(port) else { return nil }
                self.ports.insert(port)
            }
            self.more = fields
        }

        private static func port(_ value: JSONValue) -> ServicePort? {
            switch value {
            case .integer(let number): UInt16(exactly: number).flatMap { $0 > 0 ? ServicePort($0) : nil }
            case .string(let text): (try? Admission.ports(text)).flatMap { $0.count == 1 ? $0.first : nil }
            default: nil
            }
        }

        fileprivate var value: JSONValue {
            var fields = self.more
            fields["key"] = .string(self.key)
            fields["label"] = .string(self.label)
            fields["kind"] = .string(self.kindText)
            fields["ports"] = .array(
                self.ports.sorted().map { $0.transport == .tcp ? .integer(Int64($0.number)) : .string("\($0)") }
            )
            fields["since"] = .string(self.since)
            fields["lastSeen"] = self.lastSeen.map { .string($0) }
            return .object(fields)
        }

        func record(of service: String) -> InterceptRecord {
            var record = InterceptRecord(
                service: service,
                holder: Member(label: self.label, publicKey: self.key),
                since: self.since,
                ports: self.ports.sorted().map { .init(service: $0.number, transport: $0.transport, target: "") },
                kind: self.kind
            )
            record.lastSeen = self.lastSeen
            return record
        }

        /// Nobody has renewed it for long. Whoever holds ports may still be there: a sidecar can tell.
        func isStale(at now: UTCTime) -> Bool {
            guard let seen = self.lastSeen.flatMap({ UTCTime(rfc3339: $0) }) else { return true }
            let age = now.milliseconds(after: seen)
            return age > HolderList.staleAfter || age < -HolderList.aheadAtMost
        }
    }

    // MARK: The annotation's text

    init() {}

    /// - Throws: it isn't as `kl` writes it; why, as a clause.
    init(annotation text: String?) throws(Unreadable) {
        guard let text, !text.isEmpty else { return }
        guard text.utf8.count <= Self.bytesAtMost else {
            throw Unreadable("it is longer than \(Self.bytesAtMost / 1_024) KiB")
        }
        guard let value = try? JSONDecoder().decode(JSONValue.self, from: Data(text.utf8)),
            case .object(var fields) = value, case .array(let holders)? = fields.removeValue(forKey: "holders")
        else { throw Unreadable("it isn't JSON with 'holders'") }
        guard fields.removeValue(forKey: "version") == .integer(Self.version) else {
            throw Unreadable("it is of another version of kl")
        }
        guard holders.count <= Self.entriesAtMost else {
            throw Unreadable("it has more than \(Self.entriesAtMost) holders")
        }
        for holder in holders {
            guard let entry = Entry(holder) else { throw Unreadable("one of its holders can't be read") }
            guard !self.entries.contains(where: { $0.key == entry.key }) else {
                throw Unreadable("one of its holders is there twice")
            }
            self.entries.append(entry)
        }
        self.more = fields
    }

    struct Unreadable: Error, Equatable {
        let reason: String
        init(_ reason: String) { self.reason = reason }
    }

    /// Nil: there is nothing to say, so that the annotation goes.
    var text: String? {
        get throws {
            guard !self.entries.isEmpty || !self.more.isEmpty else { return nil }
            var fields = self.more
            fields["version"] = .integer(Self.version)
            fields["holders"] = .array(self.entries.map(\.value))
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            let text = String(decoding: try encoder.encode(JSONValue.object(fields)), as: UTF8.self)
            guard text.utf8.count <= Self.bytesAtMost, self.entries.count <= Self.entriesAtMost else {
                throw Problem(
                    .failed,
                    "more workspaces hold ports of this Service than its annotation \(Self.annotation) has room for",
                    "Ask one of them to stop."
                )
            }
            return text
        }
    }

    // MARK: Changes

    func entry(of key: String) -> Entry? { self.entries.first { $0.key == key } }

    /// In place of the same key's earlier entry, whose fields that this version doesn't know are kept.
    mutating func put(_ entry: Entry) {
        guard let index = self.entries.firstIndex(where: { $0.key == entry.key }) else {
            return self.entries.append(entry)
        }
        var entry = entry
        entry.more = self.entries[index].more
        self.entries[index] = entry
    }

    mutating func remove(_ key: String) { self.entries.removeAll { $0.key == key } }

    /// Another workspace gets these ports; a holder that has no others goes.
    mutating func take(_ ports: Set<ServicePort>, from key: String) {
        guard let index = self.entries.firstIndex(where: { $0.key == key }) else { return }
        self.entries[index].ports.subtract(ports)
        if self.entries[index].ports.isEmpty { self.entries.remove(at: index) }
    }

    /// - Returns: whether there is such an entry.
    mutating func renew(_ key: String, at now: UTCTime) -> Bool {
        guard let index = self.entries.firstIndex(where: { $0.key == key }) else { return false }
        self.entries[index].lastSeen = now.rfc3339
        return true
    }
}

extension ServiceObject {
    /// - Throws: a `Problem` that names the annotation. A pod that no Service selects has none: its sidecar alone knows its holders.
    var holders: HolderList {
        get throws(Problem) {
            guard !self.isPod else { return HolderList() }
            do throws(HolderList.Unreadable) {
                return try HolderList(annotation: self.metadata.annotations?[HolderList.annotation])
            } catch {
                throw Problem(
                    .failed,
                    "the annotation \(HolderList.annotation) of Service '\(self.name.printable)' can't be read: \(error.reason)",
                    "If nobody intercepts it, remove it: kubectl annotate service \(self.name.shellQuoted) \(HolderList.annotation)-"
                )
            }
        }
    }
}

/// Changes the annotation of an object that is still in the version it was read in.
struct HoldersPatch: Encodable {
    let resourceVersion: String?
    /// Nil: the annotation goes.
    let text: String?

    private enum Keys: String, CodingKey { case metadata, resourceVersion, annotations }

    private struct Name: CodingKey {
        let stringValue: String
        var intValue: Int? { nil }
        init(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    func encode(to encoder: any Encoder) throws {
        var body = encoder.container(keyedBy: Keys.self)
        var metadata = body.nestedContainer(keyedBy: Keys.self, forKey: .metadata)
        try metadata.encodeIfPresent(self.resourceVersion, forKey: .resourceVersion)
        var annotations = metadata.nestedContainer(keyedBy: Name.self, forKey: .annotations)
        let name = Name(stringValue: HolderList.annotation)
        if let text { try annotations.encode(text, forKey: name) } else { try annotations.encodeNil(forKey: name) }
    }
}
