/// A row of the list.
public struct PickerItem: Equatable, Sendable {
    /// `api-server (running) - ports: 8080, 9090`
    public var text: String
    /// Why the row is shown but can't be chosen.
    public var disabledReason: String?

    public init(_ text: String, disabledReason: String? = nil) {
        self.text = text
        self.disabledReason = disabledReason
    }
}

/// The chosen items' indices, ascending.
public typealias PickerAction = DialogueAction<[Int]>
public typealias PickerResult = DialogueResult<[Int]>

/// A list that is searched by typing. The keys are those of fzf, which users know.
public struct Picker: Dialogue, Sendable {
    let prompt: String
    let header: String?
    let items: [PickerItem]
    let isMultiple: Bool

    public var symbols = Symbols.unicode

    private let texts: [FuzzyText]
    private(set) var query = LineEditor()
    /// The rows that match the search, the best first.
    private(set) var matches: [Match]
    /// An index in `matches`.
    private(set) var current = 0
    private(set) var toggled: Set<Int> = []
    /// Why the last key did nothing.
    private(set) var refusal: String?

    struct Match: Equatable, Sendable {
        var item: Int
        var positions: [Int]
    }

    /// The number of rows that PageUp and PageDown move.
    private static let page = 10

    public init(prompt: String, header: String?, items: [PickerItem], multiple: Bool) {
        self.prompt = prompt
        self.header = header
        self.items = items
        self.isMultiple = multiple
        self.texts = items.map { FuzzyText($0.text) }
        self.matches = items.indices.map { Match(item: $0, positions: []) }
    }

    public mutating func handle(_ key: Key) -> PickerAction {
        self.refusal = nil
        switch key {
        case .control("c"): return .interrupted
        case .escape, .control("g"): return .cancelled
        case .control("d") where self.query.isEmpty: return .cancelled
        case .enter: return self.choose()
        case .up, .control("p"), .control("k"): self.move(by: -1)
        case .down, .control("n"), .control("j"): self.move(by: 1)
        case .pageUp: self.move(by: -Self.page)
        case .pageDown: self.move(by: Self.page)
        case .tab: self.toggle(thenMoveBy: 1)
        case .backTab: self.toggle(thenMoveBy: -1)
        default:
            let before = self.query.characters
            if self.query.handle(key), self.query.characters != before { self.search() }
        }
        return .continue
    }

    private mutating func move(by rows: Int) {
        self.current = max(0, min(self.matches.count - 1, self.current + rows))
    }

    private var currentItem: Int? {
        self.matches.indices.contains(self.current) ? self.matches[self.current].item : nil
    }

    private mutating func toggle(thenMoveBy rows: Int) {
        guard self.isMultiple, let item = self.currentItem, self.isAllowed(item) else { return }
        if self.toggled.remove(item) == nil { self.toggled.insert(item) }
        self.move(by: rows)
    }

    private mutating func choose() -> PickerAction {
        if !self.toggled.isEmpty { return .chosen(self.toggled.sorted()) }
        guard let item = self.currentItem, self.isAllowed(item) else { return .continue }
        return .chosen([item])
    }

    private mutating func isAllowed(_ item: Int) -> Bool {
        self.refusal = self.items[item].disabledReason
        return self.refusal == nil
    }

    private mutating func search() {
        self.current = 0
        let query = FuzzyQuery(self.query.text)
        guard !query.isEmpty else {
            self.matches = self.items.indices.map { Match(item: $0, positions: []) }
            return
        }
        // Of two with the same score the shorter one comes first, then the one that was listed first.
        self.matches = self.texts.enumerated()
            .compactMap { index, text in FuzzyMatch.find(query, in: text).map { (index, $0) } }
            .sorted {
                (-$0.1.score, self.texts[$0.0].characters.count, $0.0)
                    < (-$1.1.score, self.texts[$1.0].characters.count, $1.0)
            }
            .map { Match(item: $0.0, positions: $0.1.positions) }
    }

    /// The picker leaves no line; the caller prints what was chosen.
    func record(of choice: [Int]) -> String? { nil }
}
