import ArgumentParser

/// A shell's completion script: the argument parser's, with additions for what it lacks.
///
/// The parser's script doesn't know aliases. In bash it also splits words as bash does, at ':' and '=', so that `80:80` is
/// three words; and it declares all completions to be file names, so that a service named like a folder gets a '/'
/// appended.
struct CompletionScript: CustomStringConvertible {
    let description: String

    init(_ shell: CompletionShell, of root: any ParsableCommand.Type = Kl.self) {
        let program = root._commandName
        let made = root.completionScript(for: shell)
        let aliases = Self.aliases(of: root, path: program)
        self.description =
            switch shell {
            case .bash: made + "\n" + Self.bash(program, aliases)
            case .zsh: Self.zsh(made, program, aliases)
            case .fish: made + "\n" + Self.fish(program, aliases)
            default: made
            }
    }

    private struct Aliases {
        /// The words before the alias: `kl intercept`.
        var path: String
        /// `start`
        var command: String
        /// `s`, `begin`
        var names: [String]
    }

    private static func aliases(of command: any ParsableCommand.Type, path: String) -> [Aliases] {
        command.configuration.subcommands.filter { $0.configuration.shouldDisplay }.flatMap { subcommand in
            let name = subcommand._commandName
            let own = Aliases(path: path, command: name, names: subcommand.configuration.aliases)
            return (own.names.isEmpty ? [] : [own]) + Self.aliases(of: subcommand, path: "\(path) \(name)")
        }
    }

    /// The patterns of a `case` in bash and zsh: `'kl i'|'kl int') name=intercept ;;`.
    private static func cases(_ aliases: [Aliases]) -> String {
        aliases.map { alias in
            let patterns = alias.names.map { "'\(alias.path) \($0)'" }.joined(separator: "|")
            return "        \(patterns)) name=\(alias.command) ;;"
        }
        .joined(separator: "\n")
    }

    // MARK: bash

    private static func bash(_ program: String, _ aliases: [Aliases]) -> String {
        let offers = Dictionary(grouping: aliases, by: \.path).sorted { $0.key < $1.key }.map { path, aliases in
            "        '\(path)') offered='\(aliases.flatMap(\.names).joined(separator: " "))' ;;"
        }
        return """
            # Only names of files are quoted, and get a slash, as such.
            __\(program)_add_completions() {
                local completion
                [[ "${1}" = -W ]] || compopt -o filenames 2>/dev/null
                while IFS='' read -r completion; do
                    COMPREPLY+=("${completion}")
                done < <(IFS=$'\\n' compgen "${@}" -- "${cur}")
            }

            # Calls the functions above with the words as a person sees them: parted at blanks alone, and commands by their first
            # names.
            __\(program)_complete() {
                local line="${COMP_LINE:0:COMP_POINT}" piece name path offered='' head='' cur="${2}"
                local -a words=()
                local -i index joined=0 last
                for ((index = 0; index <= COMP_CWORD; index++)); do
                    piece="${line%%[![:space:]]*}"
                    line="${line#"${piece}"}"
                    # The last one, up to the cursor.
                    local word="${COMP_WORDS[index]}"
                    ((index < COMP_CWORD)) || word="${line}"
                    line="${line#"${word}"}"
                    if ((index == 0)) || [[ -n "${piece}" ]]; then
                        words+=("${word}")
                        joined=0
                    else
                        words[${#words[@]}-1]+="${word}"
                        joined=1
                    fi
                done
                last=$((${#words[@]} - 1))
                ((joined)) && cur="${words[last]}"
                # What of the word stands before the part that readline replaces.
                local -r given="${words[last]%"${2}"}"

                path='\(program)'
                for ((index = 1; index < last; index++)); do
                    name=''
                    case "${path} ${words[index]}" in
            \(Self.cases(aliases))
                    esac
                    [[ -n "${name}" ]] && words[index]="${name}"
                    path+=" ${words[index]}"
                done

                # --option=value: the value of what is before.
                if [[ "${cur}" = --*=* ]]; then
                    head="${cur%%=*}="
                    words[last]="${cur%%=*}"
                    cur="${cur#*=}"
                    last+=1
                    words[last]="${cur}"
                fi
                local -a COMP_WORDS=("${words[@]}")
                local COMP_CWORD=${last} COMP_LINE="${words[*]}"
                local COMP_POINT=${#COMP_LINE}
                _\(program) "${1}" "${cur}" "${words[last > 0 ? last - 1 : 0]}"

                # Aliases are offered where no first name begins so.
                if ((${#COMPREPLY[@]} == 0)) && [[ -n "${cur}" ]]; then
                    case "${path}" in
            \(offers.joined(separator: "\n"))
                    esac
                    [[ -n "${offered}" ]] && COMPREPLY=($(compgen -W "${offered}" -- "${cur}"))
                fi
                for index in "${!COMPREPLY[@]}"; do
                    piece="${head}${COMPREPLY[index]}"
                    COMPREPLY[index]="${piece#"${given}"}"
                done
            }

            complete -F __\(program)_complete \(program)
            """
    }

    // MARK: zsh

    /// The parser's main function is renamed, and ours gets its name: it changes the words, then calls the renamed one.
    private static func zsh(_ made: String, _ program: String, _ aliases: [Aliases]) -> String {
        let own = """
            functions[__\(program)_by_first_names]="${functions[_\(program)]}"

            # Commands by their first names, and -p80:80 as two words, for the functions above.
            _\(program)() {
                emulate -L zsh
                local path_of_words='\(program)' name
                local -i index=2
                while ((index < CURRENT)); do
                    name=''
                    case "${path_of_words} ${words[index]}" in
            \(Self.cases(aliases))
                    esac
                    [[ -n "${name}" ]] && words[index]="${name}"
                    path_of_words+=" ${words[index]}"
                    if [[ "${words[index]}" = -[fop]?* ]]; then
                        words[index]=("${words[index][1,2]}" "${words[index][3,-1]}")
                        ((CURRENT++, index++))
                    fi
                    ((index++))
                done
                __\(program)_by_first_names "${@}"
            }


            """
        // The script's last lines call the function when zsh loads the file by name, so ours must come before them.
        guard let end = made.ranges(of: "if [[ \"${funcstack[1]}\" =").last else { return made }
        return made[..<end.lowerBound] + "zmodload -i zsh/parameter\n" + own + made[end.lowerBound...]
    }

    // MARK: fish

    /// All functions of the parser's script get the words from `__kl_tokens`, which ours replaces.
    private static func fish(_ program: String, _ aliases: [Aliases]) -> String {
        let cases = aliases.map { alias in
            let patterns = alias.names.map { "'\(alias.path) \($0)'" }.joined(separator: " ")
            return "            case \(patterns)\n                set word \(alias.command)"
        }
        return """
            # Commands by their first names, for the functions above.
            function __\(program)_words_as_typed
                if test (string split -m 1 -f 1 -- . "$FISH_VERSION") -gt 3
                    commandline --tokens-raw $argv
                else if string match -q -- '*C' "$argv"
                    # Where in a word the cursor is: fish 3 doesn't say that of tokens. No name depends on it.
                    echo 0
                else
                    commandline -o $argv
                end
            end

            function __\(program)_tokens
                set -l words (__\(program)_words_as_typed $argv)
                set -l path
                for word in $words
                    switch "$path $word"
            \(cases.joined(separator: "\n"))
                    end
                    set path (string join -- ' ' $path $word)
                    printf "%s\n" $word
                end
            end
            """
    }
}
