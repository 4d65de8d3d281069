public import CommandText
import FoundationEssentials
public import HostSupport
public import InterceptModel

/// What an environment asks `kl-sidecar` in a sidecar's container, and what the program answers. How the program is started there is
/// the environment's own: `docker exec`, `kubectl exec`.
public enum AdmissionExchange {
    /// Where the sidecar's image has the program.
    public static let program = "/kl-sidecar"
    /// The program's exit code where no sidecar runs, or none whose tunnel listens there.
    public static let noSidecar: Int32 = 3
    public static let outputAtMost = 1_048_576

    public enum Answer: Equatable, Sendable {
        case admitted(SidecarWords)
        /// Another workspace intercepts one of the ports.
        case busy(holder: String, since: String)
        case refused(String)
        /// No sidecar runs in the container: it is just being made, or has ended. With what was said about that.
        case absent(String)
        /// The sidecar doesn't answer.
        case silent
    }

    public enum Leave: Equatable, Sendable {
        /// The sidecar accepts no other key.
        case wasLast
        case othersStay
        case absent
        case silent
    }

    public enum End: Equatable, Sendable {
        case ending
        /// By whom or what, as a clause.
        case needed(String)
        case absent(String)
        case silent
    }

    // MARK: Questions

    /// Each value in one word with its flag, since it may begin with a dash.
    public static func admit(_ admission: Admission, force: Bool) -> [String] {
        var words = ["admit", admission.publicKey]
        if let label = admission.label { words.append("--label=\(label.printable)") }
        if let grant = admission.grant { words.append("--may=\(Admission.text(of: grant.rights))") }
        if let claim = admission.claim { words.append("--claim=\(claim)") }
        if force { words.append("--force") }
        return words
    }

    public static func leave(_ key: String) -> [String] { ["leave", key] }

    /// - Parameter except: this key doesn't count as one that needs the sidecar.
    public static func endIfUnused(except key: String) -> [String] { ["end", "--if-unused", "--except=\(key)"] }

    // MARK: Answers

    /// Beside what the sidecar's report has.
    private struct Said: Decodable {
        var admitted: Bool?
        var left: Bool?
        var isLast: Bool?
        var ending: Bool?
        var code: String?
        var holder: String?
        var since: String?
        var reason: String?
    }

    /// - Parameter reason: what the result says about a program that couldn't be started there.
    public static func answer(_ result: BoundedCommand.Result, reason: String) -> Answer {
        if result.isLate { return .silent }
        guard let (line, said) = Self.said(in: result.output), let isAdmitted = said.admitted else {
            return .absent(reason)
        }
        if isAdmitted {
            return SidecarWords(line: line).map { .admitted($0) } ?? .absent("it doesn't say where it listens")
        }
        let why = (said.reason ?? "it gives no reason").printable
        switch (said.code, said.holder) {
        case ("busy", let holder?): return .busy(holder: holder.printable, since: (said.since ?? "").printable)
        case ("ending", _): return .absent(why)
        default: return .refused(why)
        }
    }

    public static func leave(_ result: BoundedCommand.Result) -> Leave {
        if let (_, said) = Self.said(in: result.output), said.left != nil {
            return said.isLast == true ? .wasLast : .othersStay
        }
        return Self.isSilent(result) ? .silent : .absent
    }

    public static func end(_ result: BoundedCommand.Result, reason: String) -> End {
        if let (_, said) = Self.said(in: result.output), let isEnding = said.ending {
            return isEnding ? .ending : .needed((said.reason ?? "it gives no reason").printable)
        }
        return Self.isSilent(result) ? .silent : .absent(reason)
    }

    /// Whether the program ran and found no sidecar. Earlier versions tell it by their words alone.
    public static func saysNoSidecar(_ result: BoundedCommand.Result) -> Bool {
        result.code == Self.noSidecar || result.code == 1 && result.errors.contains("kl-sidecar: no sidecar")
    }

    /// The program found the sidecar, and got no answer.
    private static func isSilent(_ result: BoundedCommand.Result) -> Bool {
        result.isLate || result.errors.contains("kl-sidecar: the sidecar")
    }

    /// The last line that is a JSON object.
    private static func said(in output: String) -> (Substring, Said)? {
        let decoder = JSONDecoder()
        return output.split(separator: "\n").reversed().lazy.compactMap { line in
            (try? decoder.decode(Said.self, from: Data(line.utf8))).map { (line, $0) }
        }
        .first
    }
}

extension Admission {
    /// Of a workspace that is to hold these ports. One that only wants copies gets no other right.
    public init(_ publicKey: String, label: String, holding kind: HoldingKind, _ ports: Set<ServicePort>) {
        self.init(
            publicKey,
            label: label,
            grant: kind == .mirror ? Grant([.mirror]) : nil,
            claim: ports.isEmpty ? nil : Claim(kind, ports)
        )
    }
}
