import Noise

/// The public keys that a responder accepts, from a text file: one key a line, `#` begins a comment, blank lines are
/// ignored. They aren't secret, but write access to the file decides who may connect.
public struct PeersFile: Equatable, Sendable {
    public static let maximumKeyCount = 1_024
    public static let maximumByteCount = 65_536

    /// In the file's order, without duplicates.
    public let keys: [PublicKey]

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
            keys = try Self.parse(bytes)
        } catch {
            throw KeyFileError(path: path, reason: .line(error.line, error.problem))
        }
    }

    struct LineError: Error, Equatable {
        let line: Int
        let problem: KeyFileError.LineProblem
    }

    static func parse(_ bytes: [UInt8]) throws(LineError) -> [PublicKey] {
        var keys: [PublicKey] = []
        var known: Set<PublicKey> = []
        for (index, line) in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
            var text = line.prefix { $0 != UInt8(ascii: "#") }.drop(while: KeyText.isBlank)
            while let last = text.last, KeyText.isBlank(last) { text.removeLast() }
            if text.isEmpty { continue }
            guard let key = PublicKey(base64: String(decoding: text, as: UTF8.self)) else {
                throw LineError(line: index + 1, problem: .notAPublicKey)
            }
            guard known.insert(key).inserted else { continue }
            guard keys.count < maximumKeyCount else {
                throw LineError(line: index + 1, problem: .tooManyKeys(limit: maximumKeyCount))
            }
            keys.append(key)
        }
        return keys
    }
}
