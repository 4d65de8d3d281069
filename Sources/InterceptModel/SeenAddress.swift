/// Which address a service's original sees of a client that a sidecar passes on to it.
public struct SeenAddress: Codable, Hashable, Sendable {
    public enum Whose: String, Codable, Sendable {
        /// The client's own address, though with another port.
        case client
        /// The same one for all clients: the sidecar's.
        case sidecar
    }

    public var whose: Whose
    /// The sidecar's address, as far as it is known before a client comes.
    public var address: String?
    /// Why it isn't the client's, as a clause. Nil: it is; or clients call the sidecar itself, also while nobody intercepts.
    public var reason: String?

    public static let clients = SeenAddress(.client)

    /// - Parameter reason: nil where clients always call the sidecar itself.
    public static func sidecars(because reason: String?) -> SeenAddress {
        var seen = SeenAddress(.sidecar)
        seen.reason = reason
        return seen
    }

    private init(_ whose: Whose) { self.whose = whose }

    /// As a sidecar says it, in words that come from another program.
    ///
    /// - Parameter address: the sidecar's, as far as it is known.
    /// - Returns: nil if it doesn't say it, or says what only later versions know.
    public init?(_ whose: String?, because reason: String?, from address: String? = nil) {
        guard let whose = whose.flatMap(Whose.init(rawValue:)) else { return nil }
        self.init(whose)
        guard whose == .sidecar else { return }
        self.address = address?.printable
        self.reason = reason?.printable
    }

    /// Of several replicas' sidecars, what a person should know: that one doesn't show clients' addresses.
    public static func worst(of all: [SeenAddress]) -> SeenAddress? {
        all.first { $0.reason != nil } ?? all.first { $0.whose == .sidecar } ?? all.first
    }
}
