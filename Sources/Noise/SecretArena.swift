/// Holds the short secrets of a tunnel: locked regions, cut into slots of 64 bytes.
///
/// A connection has a dozen secrets of 32 or 64 bytes, and each handshake adds some; a guarded region for each would cost 16
/// KiB and several system calls. Not `Sendable`: an arena and its secrets belong to one event loop.
public final class SecretArena {
    private var regions: [SecretRegion] = []
    /// Created by the first handshake: an arena that only holds data keys needs none.
    private(set) lazy var workspace = HashWorkspace()

    public init() {}

    /// A slot of 1 to 64 zero bytes.
    public func allocate(_ byteCount: Int) -> Secret {
        precondition(1...SecretRegion.slotByteCount ~= byteCount, "a secret has 1 to 64 bytes")
        dropSpareRegions()
        for region in regions {
            if let slot = region.take() { return Secret(byteCount: byteCount, region: region, slot: slot) }
        }
        let region = SecretRegion()
        regions.append(region)
        return Secret(byteCount: byteCount, region: region, slot: region.takeFirst())
    }

    /// Frees regions that a burst of handshakes left empty, except one: otherwise, while the others are just full, a
    /// handshake would map and unmap a region for each of its secrets.
    private func dropSpareRegions() {
        while regions.suffix(2).count == 2, regions.suffix(2).allSatisfy({ $0.liveSlots == 0 }) { regions.removeLast() }
    }

    /// How many regions there are. For tests.
    var regionCount: Int { regions.count }

    /// How many secrets exist. Tests use it to find leaks.
    public var liveSecrets: Int {
        regions.reduce(0) { $0 + $1.liveSlots }
    }
}

/// One locked page of slots. A secret keeps its region alive, even after the arena is gone.
final class SecretRegion {
    static let slotByteCount = 64
    /// 63 slots and libsodium's canary of 16 bytes fill one page of 4,096.
    static let slotCount = 63

    private let memory = LockedBytes(byteCount: slotCount * slotByteCount)
    /// A bit for each slot, set while it is free.
    private var free: UInt64 = (1 << UInt64(slotCount)) - 1

    var base: UnsafeMutableRawPointer { memory.base }
    var liveSlots: Int { Self.slotCount - free.nonzeroBitCount }

    func take() -> Int? {
        free == 0 ? nil : takeFirst()
    }

    func takeFirst() -> Int {
        precondition(free != 0, "no slot is free")
        let slot = free.trailingZeroBitCount
        free &= free - 1
        return slot
    }

    func giveBack(_ slot: Int) {
        free |= 1 << UInt64(slot)
    }
}
