public import Noise

/// Keys for tests: the same in every run, and used for nothing else.
public enum SimulatedKeys {
    public static let responder = pair(1)
    public static let initiators = [pair(2), pair(3), pair(4)]
    public static let presharedKey = PresharedKey { fill(&$0, seed: 5) }!

    public static func pair(_ seed: UInt64) -> StaticKeyPair { StaticKeyPair { fill(&$0, seed: seed) }! }

    private static func fill(_ bytes: inout MutableRawSpan, seed: UInt64) -> Bool {
        SeededRandom(seed: seed).source.fill(&bytes)
        return true
    }
}
