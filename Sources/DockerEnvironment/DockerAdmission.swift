import CommandText
import Environments
import FoundationEssentials
import InterceptModel
import SidecarInterface

/// Has a sidecar admit a workspace's key, or forget it, by `kl-sidecar` in the sidecar's container: every user who may run
/// `docker exec` there may do that.
struct DockerAdmission: Sendable {
    let client: DockerClient
    let admission: Admission

    private var key: String { self.admission.publicKey }

    /// † In milliseconds. The engine starts a program in a container within some tenths of a second, on a busy machine later.
    /// Less than `AdmissionSocket.patience`, for which `kl-sidecar` itself waits for a sidecar that hangs.
    private static let patience: Int64 = 8_000
    private static let outputAtMost = 1_048_576
    private static let program = "/kl-sidecar"

    enum Answer: Equatable, Sendable {
        case admitted(SidecarWords)
        /// Another workspace intercepts one of the ports.
        case busy(holder: String, since: String)
        case refused(String)
        /// No sidecar runs in the container: it is just being made, or has ended. With what `docker` or `kl-sidecar` says.
        case absent(String)
    }

    enum Leave: Equatable, Sendable {
        /// The sidecar accepts no other key: it ends.
        case wasLast
        case othersStay
        case absent
        /// The sidecar doesn't answer.
        case silent
    }

    enum End: Equatable, Sendable {
        case ending
        /// By whom or what, as a clause.
        case needed(String)
        /// Nothing runs in its container; with what the client says.
        case absent(String)
    }

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

    // MARK: Questions

    func admit(at sidecar: DockerSidecar, force: Bool) async throws -> Answer {
        let result = try await self.run(Self.words(self.admission, force: force), in: sidecar)
        if result.isLate { throw Self.silence(of: sidecar) }
        guard let (line, said) = Self.answer(in: result.output), let isAdmitted = said.admitted else {
            return .absent(DockerClient.reason(result.errors))
        }
        if isAdmitted {
            guard let words = SidecarWords(line: line) else { return .absent("it doesn't say where it listens") }
            return .admitted(words)
        }
        let reason = (said.reason ?? "it gives no reason").printable
        switch (said.code, said.holder) {
        case ("busy", let holder?): return .busy(holder: holder.printable, since: (said.since ?? "").printable)
        case ("ending", _): return .absent(reason)
        default: return .refused(reason)
        }
    }

    func leave(_ sidecar: DockerSidecar) async throws -> Leave {
        let result = try await self.run(["leave", self.key], in: sidecar)
        if let (_, said) = Self.answer(in: result.output), said.left != nil {
            return said.isLast == true ? .wasLast : .othersStay
        }
        return self.isSilent(result) ? .silent : .absent
    }

    /// Has it end, unless another workspace or a client needs it.
    func end(_ sidecar: DockerSidecar) async throws -> End {
        let result = try await self.run(["end", "--if-unused", "--except=\(self.key)"], in: sidecar)
        if let (_, said) = Self.answer(in: result.output), let isEnding = said.ending {
            return isEnding ? .ending : .needed((said.reason ?? "it gives no reason").printable)
        }
        if self.isSilent(result) { throw Self.silence(of: sidecar) }
        return .absent(DockerClient.reason(result.errors))
    }

    /// The program found the sidecar, and got no answer; where it finds none, it says "no sidecar runs".
    private func isSilent(_ result: DockerClient.Result) -> Bool {
        result.isLate || result.errors.contains("kl-sidecar: the sidecar")
    }

    // MARK: Words

    /// Each value in one word with its flag, since it may begin with a dash.
    static func words(_ admission: Admission, force: Bool) -> [String] {
        var words = ["admit", admission.publicKey]
        if let label = admission.label { words.append("--label=\(label.printable)") }
        if let grant = admission.grant { words.append("--may=\(Admission.text(of: grant.rights))") }
        if let claim = admission.claim { words.append("--claim=\(claim)") }
        if force { words.append("--force") }
        return words
    }

    private func run(_ words: [String], in sidecar: DockerSidecar) async throws -> DockerClient.Result {
        try await self.client.run(
            ["exec", sidecar.id, Self.program] + words,
            within: Self.patience,
            outputAtMost: Self.outputAtMost
        )
    }

    /// The last line that is a JSON object.
    private static func answer(in output: String) -> (Substring, Said)? {
        let decoder = JSONDecoder()
        return output.split(separator: "\n").reversed().lazy.compactMap { line in
            (try? decoder.decode(Said.self, from: Data(line.utf8))).map { (line, $0) }
        }
        .first
    }

    static func silence(of sidecar: DockerSidecar) -> Problem {
        Problem(
            .failed,
            "the sidecar \(sidecar.name) doesn't answer",
            "If it hangs, remove it: docker rm --force \(sidecar.name)"
        )
    }
}
