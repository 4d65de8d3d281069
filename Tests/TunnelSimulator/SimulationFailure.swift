/// A failure that a simulation found, with all that is needed to reproduce it.
public struct SimulationFailure: Error, CustomStringConvertible {
    public var seed: UInt64
    public var time: Int64
    public var what: String

    public var description: String { "SEED=\(self.seed), at \(Double(self.time) / 1e9) s: \(self.what)" }
}
