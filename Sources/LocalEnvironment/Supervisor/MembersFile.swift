import CommandText
import Environments
import HostSupport
import InterceptModel
import KeyFiles
import Libc
import Logging
import Noise

/// Keeps the keys in `peers` in step with the members in `record.json`, each with what `rights` has behind it.
struct MembersFile {
    let folder: StateFolder
    let log: Logger
    /// What is wrong, as a clause; nil while it works.
    private(set) var problem: String?
    private var seen: [Stamp?] = []
    private var written: String?

    init(folder: StateFolder, log: Logger) {
        self.folder = folder
        self.log = log
    }

    /// The record is always replaced, never changed in place, so a new version has another inode.
    private struct Stamp: Equatable {
        var inode: UInt64
        var size: Int64
        var seconds: Int
        var nanoseconds: Int

        static func of(_ path: String) -> Stamp? {
            var status = stat()
            guard stat(path, &status) == 0 else { return nil }
            return Stamp(
                inode: UInt64(status.st_ino),
                size: Int64(status.st_size),
                seconds: status.st_mtim.tv_sec,
                nanoseconds: status.st_mtim.tv_nsec
            )
        }
    }

    /// Writes `peers` again if the record or `rights` has changed. Returns whether the keys are different now.
    @discardableResult
    mutating func update(_ generation: inout Int) -> Bool {
        let stamps = [Stamp.of(self.folder.record), Stamp.of(self.folder.rights)]
        guard stamps != self.seen || self.written == nil || self.problem != nil else { return false }
        var problem: String?
        var text = self.written ?? ""
        do throws(Problem) {
            text = PeersText.make(try RecordFile(in: self.folder).read().members, try self.rights())
            self.seen = stamps
        } catch {
            problem = "the accepted keys stay as they were: \(error)"
        }
        var isNew = false
        // If the keys can't be known now, those that an earlier supervisor has written stay.
        let areKept = problem != nil && self.written == nil && access(self.folder.peers, F_OK) == 0
        // At first `written` is nil, so that even an empty file is written: a sidecar doesn't start without it.
        if text != self.written, !areKept {
            do throws(HostError) {
                // Writable by its owner only, even in a shared folder: its content decides which workspaces get in.
                try SmallFile.replace(self.folder.peers, with: Array(text.utf8), mode: 0o600)
                self.written = text
                generation += 1
                isNew = true
            } catch {
                problem = "the accepted keys stay as they were: \(Problem(error))"
            }
        }
        if let problem, self.problem != problem { self.log.error("\(problem)") }
        self.problem = problem
        return isNew
    }

    /// What a person has written for some of the keys. A file that can't be read as a whole, or that others may change, gives
    /// nobody a right.
    private func rights() throws(Problem) -> [PublicKey: Admission] {
        do throws(KeyFileError) {
            let peers = try PeersFile(contentsOf: self.folder.rights).peers
            return Dictionary(peers.map { ($0.key, $0.admission) }, uniquingKeysWith: { first, _ in first })
        } catch {
            if error.reason == .missing { return [:] }
            throw Problem(.failed, error.what, error.remedy)
        }
    }
}

/// The content of `peers`: the members' keys in the format of a sidecar's --peers-file.
///
/// A sidecar that refuses the file keeps its previous keys, so nothing that it would refuse is written.
enum PeersText {
    /// The sidecar's own limits (docs/OPERATIONS.md, key files).
    static let keysAtMost = 1_024
    static let bytesAtMost = 65_536

    /// If there are too many members, the newest are kept.
    /// - Parameter rights: of keys that may not do everything.
    static func make(_ members: [Member], _ rights: [PublicKey: Admission] = [:]) -> String {
        var known: Set<PublicKey> = []
        var lines: [(peer: String, label: String)] = []
        for member in members.reversed() {
            guard let key = PublicKey(base64: member.publicKey), known.insert(key).inserted else { continue }
            lines.append((rights[key]?.description ?? key.base64, Self.label(member.label)))
            if lines.count == Self.keysAtMost { break }
        }
        let text = lines.reversed().map { "\($0.peer) # \($0.label)\n" }.joined()
        guard text.utf8.count > Self.bytesAtMost else { return text }
        var room = Self.bytesAtMost
        return lines.map { "\($0.peer)\n" }.prefix { line in
            room -= line.utf8.count
            return room >= 0
        }.reversed().joined()
    }

    /// Reduced to one line of at most 64 visible characters.
    private static func label(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.lazy.filter(\.isVisible).prefix(64)))
    }
}
