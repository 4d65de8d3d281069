import NIOCore

/// Path validation (RFC 9000 §8.2), both parts of it: challenges of the peer that we have to answer, and its answers to ours.
struct PathValidation {
    /// Data of PATH_CHALLENGE frames that no PATH_RESPONSE of ours has repeated yet.
    private var challenges = CircularBuffer<UInt64>()
    /// Data of the PATH_RESPONSE frames that came since `takeAnswers` was last called.
    private var answers: [UInt64] = []

    var hasChallenge: Bool { !self.challenges.isEmpty }
    /// For tests.
    var counts: [Int] { [self.challenges.count, self.answers.count] }

    /// Of many challenges, the newest are answered.
    mutating func challenged(_ data: UInt64) {
        if self.challenges.count >= Constants.pathResponsesKept { self.challenges.removeFirst() }
        self.challenges.append(data)
    }

    mutating func nextChallenge() -> UInt64? { self.challenges.popFirst() }

    mutating func answered(_ data: UInt64) {
        guard self.answers.count < Constants.pathResponsesReadAtOnce else { return }
        self.answers.append(data)
    }

    mutating func takeAnswers() -> [UInt64] {
        defer { self.answers.removeAll() }
        return self.answers
    }

    /// Challenges were for the path that was in use before.
    mutating func carrierChanged() { self.challenges.removeAll() }
}
