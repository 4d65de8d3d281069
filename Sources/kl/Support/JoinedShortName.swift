import ArgumentParser

extension NameSpecification {
    /// `--output json`, `--output=json`, `-o json`, and `-ojson` as in other programs.
    static func joinedShortAndLong(_ letter: Character) -> NameSpecification {
        [.long, .customShort(letter, allowingJoined: true)]
    }
}
