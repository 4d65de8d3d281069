import Environments
import HostSupport
import InterceptModel
import NIOPosix

/// How `kubectl` is told which cluster is meant.
struct KubectlWords: Sendable {
    let place: KubernetesPlace

    /// The command line up to the subcommand, for a program that is started with `variables(_:)`: `KUBECONFIG` may be a list of
    /// files, which the flag `--kubeconfig` doesn't take.
    var words: [String] { ["kubectl", "--context=\(self.place.context)", "--namespace=\(self.place.namespace)"] }

    /// The shell's variables with the one that names the user's files as it was when they connected.
    func variables(_ shell: [String: String]) -> [String: String] {
        var variables = shell
        variables["KUBECONFIG"] = self.place.kubeconfig
        return variables
    }

    /// What a user types to see whether a login works.
    var trial: String {
        let kubeconfig = self.place.kubeconfig.map { "KUBECONFIG=\($0.shellQuoted) " } ?? ""
        let namespace = self.place.namespace.shellQuoted
        return "\(kubeconfig)kubectl --context \(self.place.context.shellQuoted) --namespace \(namespace) get pods"
    }
}

/// Runs `kubectl` to its end, for what the API server isn't asked through the proxy.
enum Kubectl {
    /// † Each has 52 MB of RSS while it runs.
    private static let atOnce = 4
    private static let outputAtMost = 4 * 1_048_576

    private static let pool: NIOThreadPool = {
        let pool = NIOThreadPool(numberOfThreads: Self.atOnce)
        pool.start()
        return pool
    }()

    /// Its standard input is empty, and it has no terminal.
    /// - Parameter milliseconds: from its start on; before that it waits for its turn.
    static func run(
        _ words: [String],
        _ environment: [String: String],
        within milliseconds: Int64
    ) async throws -> BoundedCommand.Result {
        let result = try await Self.pool.runIfActive {
            let program: String
            do throws(HostError) {
                program = try FilterProcess.program(words, path: environment["PATH"])
            } catch {
                throw APIFailure.noKubectl
            }
            return BoundedCommand.run(
                program,
                Array(words.dropFirst()),
                environment: environment,
                within: milliseconds,
                outputAtMost: Self.outputAtMost
            )
        }
        guard let result else { throw APIFailure.ofKubectl("it can't be started") }
        return result
    }

    static func isInstalled(_ environment: [String: String]) -> Bool {
        (try? FilterProcess.program(["kubectl"], path: environment["PATH"])) != nil
    }

    /// The last line that it has written to standard error, as a clause.
    static func reason(_ errors: String) -> String {
        let lines = errors.split(whereSeparator: \.isNewline).map { String($0).printable }.filter { !$0.isEmpty }
        var last = lines.last ?? "nothing"
        for prefix in ["error: ", "Error from server "] where last.hasPrefix(prefix) { last.removeFirst(prefix.count) }
        return last
    }
}
