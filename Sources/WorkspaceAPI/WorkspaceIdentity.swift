public import Environments
import HostSupport
import InterceptModel
import KeyFiles
import Libc
public import Noise

/// This workspace's identity: a key, to which sidecars grant access, and a name for people.
public struct WorkspaceIdentity: Sendable {
    public let staticKey: StaticKeyPair
    /// user@host
    public let label: String
    /// The folder for the timestamps that were last sent to each sidecar.
    package let timestamps: String

    public var member: Member { Member(label: self.label, publicKey: self.staticKey.publicKey.base64) }

    /// Reads the key, and makes one if there is none. If several processes do so at once, one key results.
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
            throw Problem(.failed, "\(error)", "Check the folder, or name another by the variable KL_HOME.")
        }
        if !Self.hasKey(home) { try Self.makeKey(at: home.privateKey) }
        try self.init(reading: home)
        withExtendedLifetime(lock) {}
    }

    /// Reads the key; nil if there is none. Nothing is written, and no lock is needed, since a key file appears as a whole.
    public init?(ifAnyIn home: WorkspaceHome) throws {
        guard Self.hasKey(home) else { return nil }
        try self.init(reading: home)
    }

    private init(_ staticKey: StaticKeyPair, _ other: WorkspaceIdentity) {
        self.staticKey = staticKey
        self.label = other.label
        self.timestamps = other.timestamps
    }

    /// As sidecars of this service know the workspace. A pod's sidecar may serve several Services at once, and a key has one tunnel
    /// to a sidecar, so in a cluster each Service has a key of its own, derived from the workspace's.
    public func of(_ service: String, in environment: EnvironmentReference) -> WorkspaceIdentity {
        guard let place = environment.kubernetes,
            let key = self.staticKey.derived(for: "kl kubernetes \(place.namespace)/\(service)")
        else { return self }
        return WorkspaceIdentity(key, self)
    }

    private init(reading home: WorkspaceHome) throws {
        self.staticKey = try KeyFile.readPrivateKey(at: home.privateKey)
        self.label = WorkspaceLabel.own
        self.timestamps = home.timestamps
    }

    /// A file that can't be looked at counts as present: reading it says why it can't be read.
    private static func hasKey(_ home: WorkspaceHome) -> Bool {
        access(home.privateKey, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR)
    }

    /// Written under another name, then renamed, so that a process that dies meanwhile leaves no partial key.
    private static func makeKey(at path: String) throws {
        let other = "\(path).new"
        unlink(other)
        try KeyFile.write(StaticKeyPair.generate(), to: other)
        guard rename(other, path) == 0 else {
            throw Problem(.failed, "\(HostError("'\(path)' can't be made", code: errno))", "Check the folder.")
        }
    }
}
