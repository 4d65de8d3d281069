import Tunnel

/// An end's wall clock. It may be set forwards and back without any other effect.
final class WallClock {
    private unowned let world: World
    var offset: Int64 = 0

    /// A day in 2026.
    private static let start: Int64 = 1_770_000_000_000_000_000

    init(_ world: World) { self.world = world }

    var now: TAI64N {
        let time = Self.start + self.world.now + self.offset
        return TAI64N(unixSeconds: time / 1_000_000_000, nanoseconds: UInt32(time % 1_000_000_000))
    }
}
