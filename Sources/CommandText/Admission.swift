public import InterceptModel

/// A key that a sidecar is told to accept, with what it may do there: a line of a peers file, and what `kl-sidecar admit` takes.
///
/// ```
///   KEY label=ada@thinkpad may=intercept,mirror ports=80,53/udp until=2026-12-01T00:00:00Z claim=intercept:80
/// ```
public struct Admission: Hashable, Sendable {
    /// Ports that the key claims as soon as it is admitted, before its workspace connects.
    public struct Claim: Hashable, Sendable {
        public var kind: HoldingKind
        public var ports: Set<ServicePort>

        public init(_ kind: HoldingKind, _ ports: Set<ServicePort>) {
            self.kind = kind
            self.ports = ports
        }
    }

    /// Base64; as text, since this module doesn't know the key type.
    public var publicKey: String
    /// The workspace's name, as others see it.
    public var label: String?
    /// Nil: all that the sidecar's own flags allow.
    public var grant: Grant?
    public var claim: Claim?

    public init(_ publicKey: String, label: String? = nil, grant: Grant? = nil, claim: Claim? = nil) {
        self.publicKey = publicKey
        self.label = label
        self.grant = grant
        self.claim = claim
    }
}

extension Admission: CustomStringConvertible {
    /// - Parameter line: the line without its comment.
    public init(line: some StringProtocol) throws(FlagError) {
        let isBlank = { (character: Character) in character == " " || character == "\t" || character == "\r" }
        var words = String(line).split(whereSeparator: isBlank).map(String.init)[...]
        guard let key = words.popFirst() else {
            throw FlagError("There is no key. Write a public key, and what it may do after it.")
        }
        self.init(key)
        var values: [Substring: String] = [:]
        for word in words {
            guard let sign = word.firstIndex(of: "=") else {
                throw FlagError("'\(word)' isn't NAME=VALUE. After a key come label, may, ports, until and claim.")
            }
            guard values.updateValue(String(word[word.index(after: sign)...]), forKey: word[..<sign]) == nil else {
                throw FlagError("'\(word[..<sign])' is there twice. Write it once.")
            }
        }
        if let label = values.removeValue(forKey: "label") { self.label = try Self.label(label) }
        let (may, ports, until) = (
            values.removeValue(forKey: "may"), values.removeValue(forKey: "ports"), values.removeValue(forKey: "until")
        )
        if may != nil || ports != nil || until != nil {
            var grant = Grant.everything
            if let may { grant.rights = try Self.rights(may) }
            if let ports { grant.ports = try Self.ports(ports) }
            if let until { grant.until = try Self.time(until) }
            self.grant = grant
        }
        if let claim = values.removeValue(forKey: "claim") { self.claim = try Claim(claim) }
        if let other = values.keys.sorted().first {
            throw FlagError("'\(other)' means nothing here. After a key come label, may, ports, until and claim.")
        }
    }

    public var description: String {
        var words = [self.publicKey]
        if let label = self.label { words.append("label=\(Self.escaped(label))") }
        if let grant = self.grant {
            words.append("may=\(Self.text(of: grant.rights))")
            if let ports = grant.ports { words.append("ports=\(Self.text(of: ports))") }
            if let until = grant.until { words.append("until=\(until.rfc3339)") }
        }
        if let claim = self.claim { words.append("claim=\(claim)") }
        return words.joined(separator: " ")
    }

    // MARK: Values

    /// `intercept,take-over`
    public static func rights(_ text: String) throws(FlagError) -> Set<Right> {
        var rights: Set<Right> = []
        for word in text.split(separator: ",", omittingEmptySubsequences: false) {
            guard let right = Right(rawValue: String(word)) else {
                let names = Right.allCases.map(\.rawValue).joined(separator: ", ")
                throw FlagError("'\(word)' isn't a right. There are \(names); write commas between them.")
            }
            rights.insert(right)
        }
        return rights
    }

    /// `80,53/udp`
    public static func ports(_ text: String) throws(FlagError) -> Set<ServicePort> {
        var ports: Set<ServicePort> = []
        for word in text.split(separator: ",", omittingEmptySubsequences: false) {
            let (number, transport) = try Flags.transport(String(word))
            ports.insert(ServicePort(try Flags.port(number[...]), transport))
        }
        guard ports.count <= ServicePort.maxCount else {
            throw FlagError("\(ports.count) ports are too many. At most \(ServicePort.maxCount).")
        }
        return ports
    }

    /// `2026-12-01T00:00:00Z`
    public static func time(_ text: String) throws(FlagError) -> UTCTime {
        guard let time = UTCTime(rfc3339: text) else {
            throw FlagError("'\(text)' isn't a time in UTC. Write it as 2026-12-01T00:00:00Z.")
        }
        return time
    }

    public static func text(of rights: Set<Right>) -> String {
        Right.allCases.filter { rights.contains($0) }.map(\.rawValue).joined(separator: ",")
    }

    public static func text(of ports: Set<ServicePort>) -> String {
        ports.sorted().map { "\($0)" }.joined(separator: ",")
    }

    /// Blanks, `%` and `#` as `%20`, `%25` and `%23`, so that a label stays one word.
    private static func escaped(_ label: String) -> String {
        label.printable.reduce(into: "") { text, character in
            switch character {
            case " ": text += "%20"
            case "%": text += "%25"
            case "#": text += "%23"
            default: text.append(character)
            }
        }
    }

    private static func label(_ text: String) throws(FlagError) -> String {
        var label = ""
        var rest = text[...]
        while let next = rest.popFirst() {
            guard next == "%" else {
                label.append(next)
                continue
            }
            switch rest.prefix(2) {
            case "20": label.append(" ")
            case "25": label.append("%")
            case "23": label.append("#")
            default:
                throw FlagError(
                    "'\(text)' has a '%' that is none. In a label write %20, %25 and %23 for blank, % and #."
                )
            }
            rest = rest.dropFirst(2)
        }
        return label.printable
    }
}

extension Admission.Claim: CustomStringConvertible {
    /// `intercept:80,53/udp`
    public init(_ text: String) throws(FlagError) {
        let pieces = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        guard pieces.count == 2, let kind = HoldingKind(rawValue: String(pieces[0])) else {
            throw FlagError(
                "'\(text)' claims nothing. Write intercept:PORTS or mirror:PORTS, such as intercept:80,53/udp."
            )
        }
        self.init(kind, try Admission.ports(String(pieces[1])))
    }

    public var description: String { "\(self.kind.rawValue):\(Admission.text(of: self.ports))" }
}
