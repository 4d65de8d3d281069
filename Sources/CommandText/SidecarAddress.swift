public import InterceptModel

/// `--carrier`: how a sidecar is dialled.
public enum CarrierChoice: String, Sendable, CaseIterable {
    /// At its addresses, over UDP and TCP at once; if these can't be reached, with the environment's command.
    case auto
    case udp
    case tcp
    case exec

    public init(flag text: String) throws(FlagError) {
        guard let choice = CarrierChoice(rawValue: text) else {
            throw FlagError("'\(text)' isn't a carrier. Write \(Self.names).")
        }
        self = choice
    }

    /// For use in a sentence: "auto, udp, tcp or exec".
    public static var names: String {
        let names = self.allCases.map(\.rawValue)
        return names.dropLast().joined(separator: ", ") + (names.last.map { " or \($0)" } ?? "")
    }
}

/// A workspace's `--sidecar`: which sidecar to dial, and how.
public struct SidecarAddress: Hashable, Sendable {
    public enum Carrier: Hashable, Sendable {
        case tcp(Endpoint)
        case udp(Endpoint)
        /// A program and its arguments.
        case exec([String])
    }

    /// As text, since this module doesn't know the key type.
    public var publicKey: String
    public var carrier: Carrier

    /// `PUBLIC_KEY@tcp:HOST:PORT`, and the same with `udp:` or `exec:COMMAND`.
    public init(_ text: String) throws(FlagError) {
        guard let at = text.firstIndex(of: "@") else { throw Self.malformed(text) }
        self.publicKey = String(text[..<at])
        let rest = text[text.index(after: at)...]
        guard let colon = rest.firstIndex(of: ":"), !self.publicKey.isEmpty else { throw Self.malformed(text) }
        let value = String(rest[rest.index(after: colon)...])
        switch rest[..<colon] {
        case "tcp": self.carrier = .tcp(try Flags.endpoint(value))
        case "udp": self.carrier = .udp(try Flags.endpoint(value))
        case "exec": self.carrier = .exec(try Self.command(value, of: text))
        default: throw Self.malformed(text)
        }
    }

    private static func command(_ value: String, of text: String) throws(FlagError) -> [String] {
        let split: ShellWords
        do throws(ShellWords.Failure) {
            split = try ShellWords(value)
        } catch {
            switch error {
            case .unclosed(let quote):
                throw FlagError("'\(text)' lacks a \(quote) that closes the one before. Add it.")
            case .backslashAtEnd:
                throw FlagError("'\(text)' ends with a backslash. Take it away, or write two.")
            }
        }
        if let syntax = split.shellSyntax {
            throw FlagError(
                "'\(syntax)' in the command after exec: means something to a shell alone. Run one: exec:sh -c '…'."
            )
        }
        guard split.words.first?.isEmpty == false else { throw Self.malformed(text) }
        return split.words
    }

    private static func malformed(_ text: String) -> FlagError {
        FlagError(
            "'\(text)' isn't a sidecar's address. Write PUBLIC_KEY@tcp:HOST:PORT or PUBLIC_KEY@udp:HOST:PORT, as the "
                + "sidecar's ready line has them, or PUBLIC_KEY@exec:'COMMAND …'."
        )
    }
}
