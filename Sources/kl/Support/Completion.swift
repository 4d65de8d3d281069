import ArgumentParser
import Environments
import HostSupport
import Libc
import WorkspaceAPI

/// Names that a shell completes. Nothing is printed if there are none, or if they can't be read.
enum Completion {
    /// Bash expands completions as it expands typed words, and other users can write the record of intercepts. So only
    /// names of letters, digits, `.`, `_` and `-` are offered.
    static func plain(_ names: [String]) -> [String] {
        names.filter { name in
            !name.isEmpty
                && name.utf8.allSatisfy {
                    (48...57).contains($0) || (65...90).contains($0) || (97...122).contains($0)
                        || "._-".utf8.contains($0)
                }
        }
    }

    static let services = CompletionKind.custom { (_: [String], _: Int, _: String) async -> [String] in
        guard let workspace = try? Workspace(OutputOptions.parse(["--quiet"])),
            let services = try? await workspace.environment().services()
        else { return [] }
        return Self.plain(services.map(\.name))
    }

    static let intercepts = CompletionKind.custom { (_: [String], _: Int, _: String) async -> [String] in
        guard let workspace = try? Workspace(OutputOptions.parse(["--quiet"])),
            let environment = try? workspace.environment(),
            let list = try? await workspace.intercepts(in: environment)
        else { return [] }
        return Self.plain(Set(list.holders.filter { $0.through == nil }.map(\.service)).sorted())
    }

    static let environments = CompletionKind.custom { (_: [String], _: Int, _: String) -> [String] in
        guard let workspace = try? Workspace(OutputOptions.parse(["--quiet"])),
            let found = try? Found(filesOf: workspace)
        else {
            return []
        }
        return Self.plain(found.all.map(\.reference.name))
    }
}

struct PrintCompletion: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "completion",
        abstract: "Print a shell's completion script.",
        discussion: """
            It completes commands and flags, and the names of services, environments and intercepts.
              bash: kl completion bash > ~/.local/share/bash-completion/completions/kl
              zsh:  kl completion zsh > a folder of your $fpath, in a file named _kl
              fish: kl completion fish > ~/.config/fish/completions/kl.fish
            """
    )

    enum Shell: String, ExpressibleByArgument, CaseIterable {
        case bash
        case zsh
        case fish
    }

    @Argument(help: "bash, zsh or fish.")
    var shell: Shell

    func run() {
        let shell: CompletionShell =
            switch self.shell {
            case .bash: .bash
            case .zsh: .zsh
            case .fish: .fish
            }
        Console.write("\(CompletionScript(shell))\n", to: STDOUT_FILENO)
    }
}
