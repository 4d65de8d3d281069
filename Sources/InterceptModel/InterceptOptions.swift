/// What clients get while the workspace can't serve them.
public enum OnUnavailable: String, Codable, Sendable, CaseIterable {
    case original
    case refuse
}

/// Which side answers health probes.
public enum Probes: String, Codable, Sendable, CaseIterable {
    case original
    case workspace
}

/// The version of the PROXY protocol's header before a connection's bytes.
public enum ProxyProtocol: String, Codable, Sendable, CaseIterable {
    case v1
    case v2
}
