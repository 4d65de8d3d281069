/// Splits a command line into words like a shell. No shell is involved, so nothing else that one does happens.
public struct ShellWords: Equatable, Sendable {
    public var words: [String] = []
    /// The first word with a meaning to a shell that is only an argument here.
    public var shellSyntax: String?

    public enum Failure: Error, Equatable {
        case unclosed(Character)
        case backslashAtEnd
    }

    private static let syntax: Set<String> = ["&&", "||", "|", ";", "&", ">", ">>", "<", "<<", "2>", "2>&1", "(", ")"]

    /// POSIX.1 Shell Command Language, §2.2.
    public init(_ text: String) throws(Failure) {
        var word: String.UnicodeScalarView?
        var isQuoted = false
        var quote: Unicode.Scalar?
        var scalars = text.unicodeScalars.makeIterator()

        func end(_ words: inout ShellWords) {
            guard let scalars = word else { return }
            let text = String(scalars)
            if !isQuoted, words.shellSyntax == nil {
                if Self.syntax.contains(text) { words.shellSyntax = text }
                if text.count > 1, text.hasSuffix(";") { words.shellSyntax = ";" }
            }
            words.words.append(text)
            word = nil
            isQuoted = false
        }

        while let scalar = scalars.next() {
            switch (quote, scalar) {
            case (let open?, _) where scalar == open: quote = nil
            case ("\""?, "\\"):
                guard let next = scalars.next() else { throw .unclosed("\"") }
                if !"\"\\$`\n".unicodeScalars.contains(next) { word?.append(scalar) }
                if next != "\n" { word?.append(next) }
            case (_?, _): word?.append(scalar)
            case (nil, "\""), (nil, "'"):
                quote = scalar
                isQuoted = true
                word = word ?? .init()
            case (nil, "\\"):
                guard let next = scalars.next() else { throw .backslashAtEnd }
                guard next != "\n" else { continue }
                isQuoted = true
                word = word ?? .init()
                word?.append(next)
            case (nil, " "), (nil, "\t"), (nil, "\n"), (nil, "\r"): end(&self)
            case (nil, _):
                word = word ?? .init()
                word?.append(scalar)
            }
        }
        if let quote { throw .unclosed(Character(quote)) }
        end(&self)
    }
}
