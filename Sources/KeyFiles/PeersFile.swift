public import CommandText
public import Noise

/// The public keys that a responder accepts, from a text file: on each line one `Admission`, which is a key and what it may do.
/// `#` begins a comment; blank lines are ignored. The keys aren't secret, but write access to the file decides which keys may
/// connect.
public struct PeersFile: Sendable {
    public static let maximumKeyCount = 1_024
    public static let maximumByteCount = 65_536

    /// In the file's order, without duplicates.
    public let peers: [(key: PublicKey, admission: Admission)]

    public var keys: [PublicKey] { self.peers.map(\.key) }

    public init(contentsOf path: String) throws(KeyFileError) {
        let file = try CheckedFile.open(path, for: .peers)
        var bytes: [UInt8] = []
        var failure: KeyFileError?
        bytes = [UInt8](unsafeUninitializedCapacity: Self.maximumByteCount + 1) { buffer, count in
            var span = MutableRawSpan(_unsafeElements: buffer)
            do throws(KeyFileError) {
                count = try file.read(into: &span)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        guard bytes.count <= Self.maximumByteCount else {
            throw KeyFileError(path: path, reason: .tooLong(limit: Self.maximumByteCount, .peers))
        }
        do {
            peers = try Self.parse(bytes)
        } catch {
            throw KeyFileError(path: path, reason: .line(error.line, error.problem))
        }
    }

    struct LineError: Error, Equatable {
        let line: Int
        let problem: KeyFileError.LineProblem
    }

    private static func parse(_ bytes: [UInt8]) throws(LineError) -> [(key: PublicKey, admission: Admission)] {
        var peers: [(key: PublicKey, admission: Admission)] = []
        var known: [PublicKey: Admission] = [:]
        for (index, line) in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
            var text = line.prefix { $0 != UInt8(ascii: "#") }.drop(while: KeyText.isBlank)
            while let last = text.last, KeyText.isBlank(last) { text.removeLast() }
            if text.isEmpty { continue }
            let (key, admission) = try Self.peer(String(decoding: text, as: UTF8.self), line: index + 1)
            if let before = known.updateValue(admission, forKey: key) {
                guard before == admission else { throw LineError(line: index + 1, problem: .keyWithOtherRights) }
                continue
            }
            guard peers.count < maximumKeyCount else {
                throw LineError(line: index + 1, problem: .tooManyKeys(limit: maximumKeyCount))
            }
            peers.append((key, admission))
        }
        return peers
    }

    private static func peer(_ text: String, line: Int) throws(LineError) -> (PublicKey, Admission) {
        let word = text.prefix { $0 != " " && $0 != "\t" && $0 != "\r" }
        guard let key = PublicKey(base64: String(word)) else { throw LineError(line: line, problem: .notAPublicKey) }
        do throws(FlagError) {
            return (key, try Admission(line: text))
        } catch {
            throw LineError(line: line, problem: .notAnAdmission("\(error)"))
        }
    }
}
