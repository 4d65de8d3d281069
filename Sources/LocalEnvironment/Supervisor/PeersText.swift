import Environments
import InterceptModel
import Noise

/// The content of `peers`: the members' keys in the format of a sidecar's --peers-file.
///
/// A sidecar that refuses the file keeps its previous keys, so nothing that it would refuse is written.
enum PeersText {
    /// The sidecar's own limits (docs/OPERATIONS.md, key files).
    static let keysAtMost = 1_024
    static let bytesAtMost = 65_536

    /// If there are too many members, the newest are kept.
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

    /// Reduced to one line of at most 64 visible characters.
    private static func label(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.lazy.filter(\.isVisible).prefix(64)))
    }
}
