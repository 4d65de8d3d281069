/// What a workspace does with ports of a service.
public enum HoldingKind: String, Codable, Sendable, CaseIterable {
    /// New connections come to the workspace. A port has at most one such holder.
    case intercept
    /// The workspace gets a copy of what clients send; another side answers them.
    case mirror

    /// † At one sidecar: each mirror costs it as many copies as there are clients.
    public static let mirrorsAtMost = 16
}

/// Something that a key may do at a sidecar.
public enum Right: String, Codable, Sendable, CaseIterable {
    case intercept
    case mirror
    /// Take a port from the workspace that intercepts it.
    case takeOver = "take-over"
    /// Have clients reset, in place of the original's answer, while the workspace can't serve them.
    case refuse
}

/// What a sidecar lets one key do, and until when.
public struct Grant: Hashable, Sendable {
    public var rights: Set<Right>
    /// Nil: all ports that the sidecar serves.
    public var ports: Set<ServicePort>?
    /// From then on the key isn't accepted any more. Nil: it doesn't expire.
    public var until: UTCTime?

    public init(_ rights: Set<Right>, ports: Set<ServicePort>? = nil, until: UTCTime? = nil) {
        self.rights = rights
        self.ports = ports
        self.until = until
    }

    public static let everything = Grant(Set(Right.allCases))

    public func allows(_ right: Right) -> Bool { self.rights.contains(right) }

    public func allows(_ port: ServicePort) -> Bool { self.ports?.contains(port) ?? true }

    /// To hold the port, so that its clients or copies come to the workspace.
    public func allows(_ kind: HoldingKind, _ port: ServicePort) -> Bool {
        self.allows(kind == .mirror ? .mirror : .intercept) && self.allows(port)
    }

    public func isOver(at time: UTCTime) -> Bool { self.until.map { $0 <= time } ?? false }
}
