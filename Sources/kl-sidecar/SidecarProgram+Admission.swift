import CommandText
import HostSupport
import InterceptModel
import InterceptProtocol
import Logging
import Noise
import SidecarAgent
import SidecarInterface

/// What a program beside the sidecar asks for by `kl-sidecar admit`, `leave`, `end` and `holders`, and what becomes of a
/// sidecar that was started for an intercept when no key is left.
extension SidecarProgram.Running {
    private var log: Logger { self.program.configuration.log }

    func answer(_ request: AdmissionSocket.Request) -> AdmissionSocket.Reply {
        switch request {
        case .admit(let line, let force): self.admit(line, force: force)
        case .leave(let key): self.answerLeave(key)
        case .end: self.answerEnd()
        case .endIfUnused(let except): self.answerEndIfUnused(except)
        case .holders: .init(line: self.currentReport.line, isDone: true)
        }
    }

    private var currentReport: SidecarReport {
        var report = self.report ?? SidecarReport(publicKey: self.program.configuration.staticKey.publicKey.base64)
        report.originalSees = self.agent.originalSees
        report.tell(self.agent.holders)
        return report
    }

    // MARK: Admitting

    private func admit(_ line: String, force: Bool) -> AdmissionSocket.Reply {
        // A workspace that wants to hold ports makes another sidecar then.
        guard !self.isEnding, !self.agent.isGoingOn else { return Self.refusal("ending", "the sidecar is ending") }
        let admission: Admission
        do throws(FlagError) { admission = try Admission(line: line) } catch {
            return Self.refusal("unsupported", error.description)
        }
        switch self.agent.admit(admission, force: force) {
        case .refused(let failure):
            return Self.refusal(failure.code.rawValue, failure.reason, failure.holder, failure.since)
        case .admitted:
            self.log.info(
                "a key is admitted",
                metadata: ["key": "\(admission.publicKey)", "workspace": "\(admission.label?.printable ?? "")"]
            )
            var fields: [(String, JSONLine.Value)] = [("admitted", .bool(true))]
            if PublicKey(base64: admission.publicKey).map({ self.agent.isConfigured($0) }) ?? false {
                fields.append(("rights", .string("configured")))
            }
            return .init(line: self.currentReport.line(with: fields), isDone: true)
        }
    }

    private static func refusal(
        _ code: String,
        _ reason: String,
        _ holder: String? = nil,
        _ since: String? = nil
    ) -> AdmissionSocket.Reply {
        var fields: [(String, JSONLine.Value)] = [
            ("admitted", .bool(false)), ("code", .string(code)), ("reason", .string(reason)),
        ]
        if let holder { fields.append(("holder", .string(holder))) }
        if let since { fields.append(("since", .string(since))) }
        return .init(line: JSONLine.object(fields), isDone: false)
    }

    // MARK: Leaving

    private func answerLeave(_ text: String) -> AdmissionSocket.Reply {
        let key = PublicKey(base64: text)
        let left = key.map { self.leave($0) } ?? false
        var fields: [(String, JSONLine.Value)] = [("left", .bool(left)), ("isLast", .bool(self.acceptsNobody))]
        // Its workspace may come back, since only whoever writes the file takes a key out of it.
        if key.map({ self.agent.isConfigured($0) }) ?? false { fields.append(("stays", .bool(true))) }
        return .init(line: JSONLine.object(fields), isDone: left)
    }

    /// - Returns: false if the sidecar doesn't know the key.
    private func leave(_ key: PublicKey) -> Bool {
        let isInFile = self.filePeers.contains { $0.key == key }
        guard self.agent.leave(key, stays: isInFile) else { return false }
        self.peers.removeAll { $0.key == key }
        self.acceptPeers()
        self.log.info("a key has left", metadata: ["key": "\(key.base64)"])
        let stays = !self.program.options.isEphemeral || self.program.configuration.idle != nil
        if !stays, self.acceptsNobody { self.retire("the last key has left") }
        return true
    }

    private var acceptsNobody: Bool {
        self.peers.isEmpty && self.filePeers.isEmpty && self.agent.admittedKeys.isEmpty
    }

    /// The program that admitted the key may be gone for good, too.
    func isAway(_ key: PublicKey) {
        let isForAnIntercept = self.program.options.isEphemeral && self.peers.contains { $0.key == key }
        guard isForAnIntercept || self.agent.admittedKeys.contains(key) else { return }
        self.log.notice(
            "no workspace with this key for the linger time: forgetting it",
            metadata: ["key": "\(key.base64)"]
        )
        _ = self.leave(key)
    }

    // MARK: Ending

    private func answerEnd() -> AdmissionSocket.Reply {
        self.log.notice("told to end by kl-sidecar end")
        // The answer goes out first.
        self.program.eventLoop.assumeIsolated().execute { self.shutDown() }
        return .init(line: JSONLine.object([("ending", .bool(true))]), isDone: true)
    }

    /// Those that nobody has written into the flags or the file of a sidecar that is there for good.
    private var keysOfIntercepts: Set<PublicKey> {
        let flags = self.program.options.isEphemeral ? self.peers.map(\.key) : []
        return Set(flags + self.agent.admittedKeys)
    }

    private func answerEndIfUnused(_ except: [String]) -> AdmissionSocket.Reply {
        // Of a workspace that has stopped only the key is left for a while, which its next start has admitted anew.
        let lingering = self.keysOfIntercepts.filter { self.agent.isLingering($0) }
        let others = lingering.union(except.compactMap { PublicKey(base64: $0) })
        if !self.isEnding, let need = self.agent.need(besides: others) {
            let fields: [(String, JSONLine.Value)] = [("ending", .bool(false)), ("reason", .string(need))]
            return .init(line: JSONLine.object(fields), isDone: false)
        }
        self.log.notice("told to end by kl-sidecar end --if-unused")
        // At once, so that no key is admitted any more. The program ends some turns of the loop later, after this answer.
        self.shutDown()
        return .init(line: JSONLine.object([("ending", .bool(true))]), isDone: true)
    }

    /// Ends once the connections that are passed on have ended, unless somebody needs the sidecar again by then.
    func retire(_ reason: String) {
        guard !self.isEnding else { return }
        self.log.notice("\(reason): ending when nothing is open any more")
        self.agent.retire { [weak self] in self?.shutDown() }
    }
}
