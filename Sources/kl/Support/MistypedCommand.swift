import ArgumentParser
import Environments

/// "Did you mean 'kl intercept'?", for a command that doesn't exist.
enum MistypedCommand {
    static func hint(_ words: [String], in root: any ParsableCommand.Type = Kl.self) -> String? {
        var (command, path) = (root, root._commandName)
        for word in words {
            // Flags come after commands.
            guard !word.hasPrefix("-"), !command.configuration.subcommands.isEmpty else { return nil }
            let next = command.configuration.subcommands.first {
                $0._commandName == word || $0.configuration.aliases.contains(word)
            }
            guard let next else { return Self.nearest(to: word, in: command).map { "Did you mean '\(path) \($0)'?" } }
            command = next
            path += " \(next._commandName)"
        }
        return nil
    }

    private static func nearest(to word: String, in command: any ParsableCommand.Type) -> String? {
        let shown = command.configuration.subcommands.filter { $0.configuration.shouldDisplay }
        // Short aliases are near to every short word.
        let names = shown.flatMap { [$0._commandName] + $0.configuration.aliases.filter { $0.count > 2 } }
        guard let nearest = Suggestion.nearest(to: word, among: names) else { return nil }
        return shown.first { $0.configuration.aliases.contains(nearest) }?._commandName ?? nearest
    }
}
