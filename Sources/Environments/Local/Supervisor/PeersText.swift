import InterceptProtocol
import Noise

/// What `peers` holds: the environment's members' keys, as a sidecar's --peers-file has them.
///
/// A file that a sidecar refuses would leave it with the keys that it had, so that what it refuses isn't written.
enum PeersText {
    /// A sidecar's own bounds (docs/OPERATIONS.md, key files).
    static let keysAtMost = 1_024
    static let bytesAtMost = 65_536

    /// The newest members, where there are too many.
    static func make(_ members: [Member]) -> String {
        var known: Set<PublicKey> = []
        var lines: [String] = []
        for member in members.reversed() {
            guard let key = PublicKey(base64: member.publicKey), known.insert(key).inserted else { continue }
            lines.append("\(key.base64) # \(Self.label(member.label))\n")
            if lines.count == Self.keysAtMost { break }
        }
        let text = lines.reversed().joined()
        guard text.utf8.count > Self.bytesAtMost else { return text }
        return lines.reversed().map { $0.prefix { $0 != " " } + "\n" }.joined()
    }

    /// On one line.
    private static func label(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.lazy.filter(\.isVisible).prefix(64)))
    }
}
