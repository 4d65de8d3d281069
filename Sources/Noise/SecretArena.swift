/// Where the short secrets of a tunnel live: locked regions, cut into slots of 64 bytes.
///
/// A connection has a dozen secrets of 32 or 64 bytes, and each handshake brings new ones; a guarded region of its own
/// for each would be 16 KiB and several system calls. Not `Sendable`: an arena and its secrets belong to one event loop.
public final class SecretArena {
    private var regions: [SecretRegion] = []
    /// Made when the first handshake needs it: an arena of data keys alone does without.
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

    /// What a burst of handshakes left empty goes back. One empty region is kept: where the others are just full, a
    /// handshake would else map and unmap one for each of its secrets.
    private func dropSpareRegions() {
        while regions.suffix(2).count == 2, regions.suffix(2).allSatisfy({ $0.liveSlots == 0 }) { regions.removeLast() }
    }

    /// How many regions there are. For tests.
    var regionCount: Int { regions.count }

    /// How many secrets have not ended yet. For tests: nothing leaks.
    public var liveSecrets: Int {
        regions.reduce(0) { $0 + $1.liveSlots }
    }
}

/// One locked page of slots. A secret keeps its region alive, whatever becomes of the arena.
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
