import Environments
import FoundationEssentials
import InterceptModel

/// Objects as a watch has told of them: what one line changes, without I/O.
///
/// A watch that was asked for with `sendInitialEvents` begins with an ADDED for each object that there is, and a BOOKMARK that says
/// that these were all; until then nothing is known that was deleted meanwhile, so the objects of before stay as they were.
struct WatchedObjects<Object: KubernetesObject>: Sendable {
    enum News: Equatable {
        case nothing
        case changed
        /// All objects that there are have been told; from now on `objects` is what the API server knows.
        case inStep
    }

    /// By name.
    private(set) var objects: [String: Object] = [:]
    private(set) var isInStep = false
    /// Where a watch goes on that begins after a list.
    private(set) var resourceVersion: String?
    /// Collected until all are there; nil: they are.
    private var coming: [String: Object]?
    private let limit: Int
    /// Of the lines that told what is kept, by name.
    private var sizes: [String: Int] = [:]
    private var bytes = 0
    private let bytesAtMost: Int

    /// The objects that there are haven't all been told yet.
    var isComing: Bool { self.coming != nil }

    init(limit: Int = KubernetesClient.objectsAtMost, bytesAtMost: Int = KubernetesClient.bytesAtMost) {
        self.limit = limit
        self.bytesAtMost = bytesAtMost
    }

    /// A watch begins that tells all objects anew.
    mutating func begin() {
        self.isInStep = false
        self.coming = [:]
    }

    /// A watch begins after this list.
    mutating func begin(after list: [Object], resourceVersion: String?) {
        self.objects = Dictionary(list.map { ($0.name, $0) }, uniquingKeysWith: { _, last in last })
        (self.sizes, self.bytes) = ([:], 0)
        self.resourceVersion = resourceVersion
        self.coming = nil
        self.isInStep = true
    }

    /// The watch has ended: what happens from now on isn't seen.
    mutating func end() {
        self.isInStep = false
        self.coming = nil
    }

    /// - Throws: what ends the watch: an ERROR line (410 means that its resourceVersion is too old), or one that can't be
    ///   understood.
    mutating func hear(_ line: ArraySlice<UInt8>) throws(APIFailure) -> News {
        guard let said = try? JSONDecoder().decode(WatchLine<Object>.self, from: Data(line)) else {
            throw .garbledWatch
        }
        switch said.event {
        case .object(let object, let isDeleted):
            // The API allows no other names; one becomes a part of paths.
            guard !object.name.isEmpty else { throw .garbledWatch }
            guard KubernetesPlace.isSoundName(object.name) else { return .nothing }
            try self.count(isDeleted ? 0 : line.count, of: object.name)
            return try self.hear(object, isDeleted: isDeleted)
        case .bookmark(let metadata):
            self.resourceVersion = metadata.resourceVersion ?? self.resourceVersion
            guard metadata.annotations?[ObjectMeta.initialEventsEnd] == "true", let all = self.coming else {
                return .nothing
            }
            self.objects = all
            for (name, size) in self.sizes where all[name] == nil {
                self.sizes[name] = nil
                self.bytes -= size
            }
            self.coming = nil
            self.isInStep = true
            return .inStep
        case .failed(let failure): throw failure
        case .other: return .nothing
        }
    }

    private mutating func count(_ size: Int, of name: String) throws(APIFailure) {
        self.bytes += size - (self.sizes[name] ?? 0)
        self.sizes[name] = size > 0 ? size : nil
        guard self.bytes <= self.bytesAtMost else { throw .tooManyWatched }
    }

    private mutating func hear(_ object: Object, isDeleted: Bool) throws(APIFailure) -> News {
        self.resourceVersion = object.metadata.resourceVersion ?? self.resourceVersion
        if self.coming != nil {
            // Also in between objects may go.
            self.coming?[object.name] = isDeleted ? nil : object
            guard self.coming?.count ?? 0 <= self.limit else { throw .tooManyWatched }
            return .nothing
        }
        let known = self.objects[object.name]
        if isDeleted {
            // Another one of that name may have been made since.
            guard let known, known.uid == object.uid else { return .nothing }
            self.objects[object.name] = nil
            return .changed
        }
        guard known != object else { return .nothing }
        self.objects[object.name] = object
        guard self.objects.count <= self.limit else { throw .tooManyWatched }
        return .changed
    }
}

/// One line of a watch: `{"type":"ADDED","object":{…}}`
private struct WatchLine<Object: KubernetesObject>: Decodable {
    enum Event {
        case object(Object, isDeleted: Bool)
        case bookmark(ObjectMeta)
        case failed(APIFailure)
        /// Of a kind that isn't known here.
        case other
    }

    var event: Event

    private enum CodingKeys: CodingKey {
        case type, object
    }

    private struct Bookmark: Decodable {
        var metadata: ObjectMeta
    }

    private struct Status: Decodable {
        var code: Int?
        var reason: String?
        var message: String?
    }

    init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        switch try values.decode(String.self, forKey: .type) {
        case "ADDED", "MODIFIED":
            self.event = .object(try values.decode(Object.self, forKey: .object), isDeleted: false)
        case "DELETED": self.event = .object(try values.decode(Object.self, forKey: .object), isDeleted: true)
        case "BOOKMARK": self.event = .bookmark(try values.decode(Bookmark.self, forKey: .object).metadata)
        case "ERROR":
            let status = try values.decode(Status.self, forKey: .object)
            self.event = .failed(
                APIFailure(
                    code: status.code ?? 500,
                    reason: status.reason ?? "",
                    message: (status.message ?? "the watch failed").printable
                )
            )
        default: self.event = .other
        }
    }
}
