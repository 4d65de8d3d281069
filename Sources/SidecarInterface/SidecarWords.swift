public import InterceptModel
import Noise

/// What a sidecar's last report says, as far as a workspace needs it.
public struct SidecarWords: Equatable, Sendable {
    public var publicKey: String
    /// The port of its tunnel in the service's network.
    public var port: UInt16
    /// The port at which it takes datagrams; nil: it takes none.
    public var datagramPort: UInt16?
    public var intercept: SidecarReport.Intercept?
    /// Nil: a sidecar of an earlier version, which has one holder.
    public var holders: [SidecarReport.Holder]?
    public var originalSees: SeenAddress?

    public init(publicKey: String, port: UInt16, datagramPort: UInt16? = nil) {
        self.publicKey = publicKey
        self.port = port
        self.datagramPort = datagramPort
    }

    /// Nil: the line isn't a report.
    public init?(line: some StringProtocol) {
        guard let report = SidecarReport(line: line), PublicKey(base64: report.publicKey) != nil,
            let port = report.tcp.flatMap(Self.port(of:))
        else { return nil }
        self.init(
            publicKey: report.publicKey,
            port: port,
            datagramPort: report.udp.flatMap(Self.port(of:))
        )
        self.intercept = report.intercept
        self.holders = report.holders
        self.originalSees = report.originalSees
    }

    /// The port after the last colon; nil if it is 0.
    private static func port(of place: String) -> UInt16? {
        guard let colon = place.lastIndex(of: ":"), let port = UInt16(place[place.index(after: colon)...]), port > 0
        else { return nil }
        return port
    }

    /// The last complete report in the text.
    public static func last(in text: String) -> SidecarWords? {
        // A line without a line feed isn't complete yet.
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
        return lines.reversed().lazy.compactMap { Self(line: $0) }.first
    }
}
