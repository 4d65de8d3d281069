public typealias PromptAction = DialogueAction<String>
public typealias PromptResult = DialogueResult<String>

/// A question that is answered by a line of text. If the answer is invalid, the reason is shown and the question asked
/// again.
public struct LinePrompt: Dialogue, Sendable {
    let prompt: String
    let defaultAnswer: String?
    private let mistake: @Sendable (String) -> String?

    public var symbols = Symbols.unicode

    private(set) var answer = LineEditor()
    /// What was wrong with the previous answer.
    private(set) var complaint: String?

    /// - Parameters:
    ///   - prompt: `Service port 8080 → Workspace port [8080]: `
    ///   - defaultAnswer: the answer if only Enter is pressed.
    ///   - mistake: says in a sentence what is wrong with an answer; nil if it is valid. Also called for the default.
    public init(prompt: String, defaultAnswer: String?, mistake: @escaping @Sendable (String) -> String?) {
        self.prompt = prompt
        self.defaultAnswer = defaultAnswer
        self.mistake = mistake
    }

    public mutating func handle(_ key: Key) -> PromptAction {
        switch key {
        case .control("c"): return .interrupted
        case .escape, .control("g"): return .cancelled
        case .control("d") where self.answer.isEmpty: return .cancelled
        // A terminal without bracketed paste ends pasted lines with either key.
        case .enter, .control("j"): return self.finish()
        default:
            _ = self.answer.handle(key)
            return .continue
        }
    }

    private mutating func finish() -> PromptAction {
        let typed = self.answer.trimmedText
        let text = typed.isEmpty ? self.defaultAnswer ?? "" : typed
        self.complaint = self.mistake(text)
        guard self.complaint != nil else { return .chosen(text) }
        self.answer.clear()
        return .continue
    }

    public func screen(width: Int, height: Int) -> Screen {
        var screen = Screen(width: max(0, width))
        guard width > 0, height > 0 else { return screen }
        let (line, cursor) = self.answer.row(prompt: self.prompt, width: width, ellipsis: self.symbols.ellipsis)
        screen.cursor = Screen.Position(row: 0, column: cursor)
        screen.lines = [line]
        if let complaint {
            let mark = "\(self.symbols.failed) "
            screen.lines += LineBuilder.wrapped(
                mark + complaint,
                .error,
                width: width,
                rows: min(3, height - 1),
                ellipsis: self.symbols.ellipsis
            )
        }
        return screen
    }

    /// The question and the answer stay on the terminal, as after any prompt.
    func record(of choice: String) -> String? {
        DisplayText(self.prompt).text + DisplayText(choice).text
    }
}

extension LineEditor {
    var trimmedText: String {
        var rest = self.characters[...]
        while rest.first?.isWhitespace == true { rest.removeFirst() }
        while rest.last?.isWhitespace == true { rest.removeLast() }
        return String(rest)
    }
}
