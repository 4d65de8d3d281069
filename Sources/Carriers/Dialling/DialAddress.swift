public import HostSupport

extension TunnelClient {
    /// An address at which a sidecar can be dialled.
    public enum Address: Hashable, Sendable {
        case tcp(host: String, port: Int)
        case udp(host: String, port: Int)
        /// A program with its arguments, whose standard input and output lead to the sidecar. No shell is involved.
        case command([String])
        /// A way that this process opens itself.
        case relay(StreamRelay)

        /// The carrier's name in status and ready lines.
        public var carrier: String {
            switch self {
            case .tcp: "tcp"
            case .udp: "udp"
            case .command, .relay: "exec"
            }
        }
    }
}

extension TunnelClient.Address: CustomStringConvertible {
    /// `127.0.0.1:51820`, `docker exec -i api kl-sidecar dial`: for display, without control characters.
    public var description: String {
        switch self {
        case .tcp(let host, let port), .udp(let host, let port):
            host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .command(let words): words.map(Self.quoted).joined(separator: " ").visibleText
        case .relay(let relay): relay.name.visibleText
        }
    }

    /// The same, with a long command shortened at a blank.
    public var abbreviated: String {
        guard case .command = self else { return self.description }
        return self.description.abbreviatedCommand
    }

    private static func quoted(_ word: String) -> String {
        let isPlain = !word.isEmpty && word.allSatisfy { $0.isLetter || $0.isNumber || "-_./:=@,+%~".contains($0) }
        return isPlain ? word : "\"\(word)\""
    }
}

extension TunnelClient.Address {
    public var isDatagrams: Bool { if case .udp = self { true } else { false } }
}
