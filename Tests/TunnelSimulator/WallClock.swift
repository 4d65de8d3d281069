import Tunnel

/// What an end believes the date to be. It may be set, forwards and back, while nothing else notices.
final class WallClock {
    private unowned let world: World
    var offset: Int64 = 0

    /// Some day in 2026.
    private static let start: Int64 = 1_770_000_000_000_000_000

    init(_ world: World) { self.world = world }

    var now: TAI64N {
        let time = Self.start + self.world.now + self.offset
        return TAI64N(unixSeconds: time / 1_000_000_000, nanoseconds: UInt32(time % 1_000_000_000))
    }
}
