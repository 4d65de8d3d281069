public import ArgumentParser
import CommandText
import HostSupport
public import InterceptModel
import InterceptProtocol
import KeyFiles
public import Logging
public import NIOCore
public import Noise

/// Flags that both agents share.
public struct AgentOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Read this agent's private key from a file.",
            discussion: "Without it, it makes one of its own for this run.",
            valueName: "file"
        )
    )
    public var privateKeyFile: String?

    @Option(help: ArgumentHelp("Read the preshared key from a file; both sides need the same.", valueName: "file"))
    public var presharedKeyFile: String?

    @Option(help: "Log this and what is more serious: trace, debug, info, notice, warning, error, critical.")
    public var logLevel: Logger.Level = .info

    @Option(help: "Log lines for people (text) or for programs (json).")
    public var logFormat: LineLogHandler.Format = .text

    public init() {}

    public func staticKey() throws -> StaticKeyPair {
        try self.privateKeyFile.map { try KeyFile.readPrivateKey(at: $0) } ?? .generate()
    }

    public func presharedKey() throws -> PresharedKey {
        try self.presharedKeyFile.map { try KeyFile.readPresharedKey(at: $0) } ?? PresharedKey.none
    }

    public func logger(_ label: String) -> Logger {
        let handler = LineLogHandler(label: label, format: self.logFormat, level: self.logLevel)
        return Logger(label: label) { _ in handler }
    }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
extension LineLogHandler.Format: ExpressibleByArgument {}
extension OnUnavailable: ExpressibleByArgument {}
extension Probes: ExpressibleByArgument {}
extension ProxyProtocol: ExpressibleByArgument {}

extension TimeAmount {
    /// Parses a flag such as `10m`, `6s`, `500ms`, `1h`.
    public static func flag(_ text: String) throws -> TimeAmount { .milliseconds(try Flags.milliseconds(text)) }

    /// Parses `--drain`, at most ten minutes.
    public static func drainFlag(_ text: String) throws -> TimeAmount {
        let form = "It is a number and a unit, 10m at most: 500ms, 10s, 2m."
        let unit = text.drop { $0.isASCII && $0.isNumber }
        guard unit.count < text.count, ["ms", "s", "m", "h"].contains(unit) else {
            throw FlagError("'\(text)' isn't a length of time. \(form)")
        }
        guard let milliseconds = try? Flags.milliseconds(text), milliseconds <= 600_000 else {
            throw FlagError("'\(text)' is too long. \(form)")
        }
        return .milliseconds(milliseconds)
    }
}

extension PublicKey {
    /// Parses a flag.
    public static func flag(_ text: String) throws -> PublicKey {
        guard let key = PublicKey(base64: text) else {
            throw FlagError("'\(text)' isn't a public key. It is 44 characters of base64, as 'kl pubkey' prints it.")
        }
        return key
    }
}
