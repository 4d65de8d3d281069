import CommandText
import Environments
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

    func admit(at sidecar: DockerSidecar, force: Bool) async throws -> AdmissionExchange.Answer {
        let result = try await self.run(AdmissionExchange.admit(self.admission, force: force), in: sidecar)
        return AdmissionExchange.answer(result, reason: DockerClient.reason(result.errors))
    }

    func leave(_ sidecar: DockerSidecar) async throws -> AdmissionExchange.Leave {
        AdmissionExchange.leave(try await self.run(AdmissionExchange.leave(self.key), in: sidecar))
    }

    /// Has it end, unless another workspace or a client needs it.
    func end(_ sidecar: DockerSidecar) async throws -> AdmissionExchange.End {
        let result = try await self.run(AdmissionExchange.endIfUnused(except: self.key), in: sidecar)
        return AdmissionExchange.end(result, reason: DockerClient.reason(result.errors))
    }

    private func run(_ words: [String], in sidecar: DockerSidecar) async throws -> DockerClient.Result {
        try await self.client.run(
            ["exec", sidecar.id, AdmissionExchange.program] + words,
            within: Self.patience,
            outputAtMost: AdmissionExchange.outputAtMost
        )
    }

    static func silence(of sidecar: DockerSidecar) -> Problem {
        Problem(
            .failed,
            "the sidecar \(sidecar.name) doesn't answer",
            "If it hangs, remove it: docker rm --force \(sidecar.name)"
        )
    }
}
