import AgentSupport
public import Environments
import HostSupport
import KeyFiles
public import Noise

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Who this workspace is: a key, which has the rights, and a name for people.
public struct WorkspaceIdentity: Sendable {
    public let staticKey: StaticKeyPair
    /// user@host
    public let label: String
    /// Where it is kept what the key has sent last to each sidecar.
    let timestamps: String

    public var member: Member { Member(label: self.label, publicKey: self.staticKey.publicKey.base64) }

    /// Reads the key, and makes it where there is none yet. Of several at once that make one, one does.
    public init(home: WorkspaceHome) throws {
        try home.prepare()
        if let existing = try WorkspaceIdentity(ifAnyIn: home) {
            self = existing
            return
        }
        let lock: FileLock
        do {
            lock = try FileLock.acquire("\(home.privateKey).lock")
        } catch {
            throw WorkspaceError("\(error). Check the folder, or name another by the variable KL_HOME.")
        }
        if !Self.hasKey(home) { try Self.makeKey(at: home.privateKey) }
        try self.init(reading: home)
        withExtendedLifetime(lock) {}
    }

    /// Reads the key; nil where there is none. Nothing is written, and there is nothing to wait for: a key comes whole.
    public init?(ifAnyIn home: WorkspaceHome) throws {
        guard Self.hasKey(home) else { return nil }
        try self.init(reading: home)
    }

    private init(reading home: WorkspaceHome) throws {
        self.staticKey = try KeyFile.readPrivateKey(at: home.privateKey)
        self.label = WorkspaceLabel.own
        self.timestamps = home.timestamps
    }

    /// What can't be looked at is there: reading it says why it can't be read.
    private static func hasKey(_ home: WorkspaceHome) -> Bool {
        access(home.privateKey, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR)
    }

    /// Written whole under another name first: whoever dies in the middle leaves no half of a key.
    private static func makeKey(at path: String) throws {
        let other = "\(path).new"
        unlink(other)
        try KeyFile.write(StaticKeyPair.generate(), to: other)
        guard rename(other, path) == 0 else {
            throw WorkspaceError("\(HostError("'\(path)' can't be made", code: errno)). Check the folder.")
        }
    }
}
