import FoundationEssentials

enum JSONText {
    /// Parses an array of strings on one line.
    static func strings(_ line: some StringProtocol) -> [String]? {
        try? JSONDecoder().decode([String].self, from: Data(line.utf8))
    }
}
