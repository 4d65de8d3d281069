public import CommandText
public import InterceptModel
public import Noise

/// A key that may connect, with what it may do: an `Admission` whose key was read.
public struct AcceptedKey: Hashable, Sendable {
    public var key: PublicKey
    /// The workspace's name, whatever it calls itself. Nil, never empty: it is called as it says.
    public var label: String?
    /// Nil: all that the sidecar's own flags allow.
    public var grant: Grant?
    public var claim: Admission.Claim?

    public init(_ key: PublicKey, label: String? = nil, grant: Grant? = nil, claim: Admission.Claim? = nil) {
        self.key = key
        self.label = label.flatMap { $0.isEmpty ? nil : $0 }
        self.grant = grant
        self.claim = claim
    }

    /// - Parameter key: the admission's.
    public init(_ key: PublicKey, _ admission: Admission) {
        self.init(key, label: admission.label, grant: admission.grant, claim: admission.claim)
    }

    /// Nil: the admission's text isn't a public key.
    public init?(_ admission: Admission) {
        guard let key = PublicKey(base64: admission.publicKey) else { return nil }
        self.init(key, admission)
    }

    var name: String { self.label ?? self.key.abbreviated }
}
