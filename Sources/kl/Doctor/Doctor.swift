import ArgumentParser
import Interactive
import InterceptModel

/// Looks at what `kl` needs, without changing anything.
struct Doctor: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Check what is needed, one line each, and say how to fix it.",
        discussion: "✓ is well, ! is something that not everybody needs, ✗ has to be mended. Nothing is changed."
    )

    @OptionGroup var output: OutputOptions

    func run() async throws {
        let view = DoctorView(await Self.checks())
        let symbols = Symbols.ofTerminal
        try self.output.print(view, text: view.text(.init(ok: symbols.done, failed: symbols.failed)))
        let failed = view.checks.filter { $0.state == .failed }
        guard failed.isEmpty else {
            let names = failed.map(\.name).joined(separator: ", ")
            throw ProblemView(
                Problem(
                    .failed,
                    "\(names): \(failed.count == 1 ? "this has" : "these have") to be mended first."
                )
            )
        }
    }

    private static func checks() async -> [Check] {
        let home = HomeFacts.here
        return KernelFacts.here.checks + SidecarProgramFacts.here.checks
            + DockerFacts.here(connected: home.connected).checks
            + (await ClusterFacts.here(connected: home.connected)?.checks ?? []) + home.checks
            + DaemonFacts.of(home.home).checks + LimitFacts.here.checks
            + ClockFacts.here(files: home.files).checks
    }
}
