import Testing

@testable import Noise

@Suite struct SecretTests {
    @Test func `a secret is wiped and its slot comes back`() {
        let arena = SecretArena()
        do {
            var secret = arena.allocate(64)
            secret.withMutableBytes { bytes in
                for offset in bytes.byteOffsets { bytes.storeBytes(of: 0xaa, toByteOffset: offset, as: UInt8.self) }
            }
            #expect(secret.withBytes { copy($0) } == Bytes(repeating: 0xaa, count: 64))
            #expect(arena.liveSecrets == 1)
        }
        #expect(arena.liveSecrets == 0)
        // The same slot again. Nothing zeroes it but the end of the first.
        let second = arena.allocate(64)
        #expect(second.withBytes { copy($0) } == Bytes(repeating: 0, count: 64))
    }

    @Test func `secrets don't overlap, over several regions`() {
        let arena = SecretArena()
        let keeper = Keeper()
        for index in 0..<200 {
            var secret = arena.allocate(1 + index % 64)
            secret.withMutableBytes { bytes in
                for offset in bytes.byteOffsets {
                    bytes.storeBytes(of: UInt8(index), toByteOffset: offset, as: UInt8.self)
                }
            }
            keeper.add(secret)
        }
        #expect(arena.liveSecrets == 200)
        var index = 199
        keeper.removeAll { secret in
            #expect(secret.withBytes { copy($0) } == Bytes(repeating: UInt8(index), count: 1 + index % 64))
            index -= 1
        }
        #expect(index == -1)
        #expect(arena.liveSecrets == 0)
        #expect(arena.regionCount == 4)
        let last = arena.allocate(1)
        #expect(arena.liveSecrets == 1)
        #expect(arena.regionCount == 1, "what the many needed is given back")
        _ = consume last
    }

    @Test func `one secret more than a region holds doesn't map a region each time`() {
        let arena = SecretArena()
        let keeper = Keeper()
        for _ in 0..<SecretRegion.slotCount { keeper.add(arena.allocate(32)) }
        for _ in 0..<3 {
            let one = arena.allocate(32)
            #expect(arena.liveSecrets == SecretRegion.slotCount + 1)
            _ = consume one
            #expect(arena.regionCount == 2)
        }
    }

    @Test func `a secret outlives its arena`() {
        var secret: Secret
        do {
            let arena = SecretArena()
            secret = arena.allocate(32)
        }
        secret.withMutableBytes { $0.storeBytes(of: 7, as: UInt8.self) }
        #expect(secret.withBytes { copy($0) }.first == 7)
    }

    /// Both where libsodium has guarded memory to give and where ordinary memory stands in.
    @Test(arguments: [true, false]) func `locked bytes are zero, and keep what is written`(guarded: Bool) {
        var bytes = LockedBytes(byteCount: 128, guarded: guarded)
        #expect(bytes.withBytes { copy($0) } == Bytes(repeating: 0, count: 128))
        #expect(UInt(bitPattern: bytes.base) % 64 == 0)
        bytes.withMutableBytes { $0.storeBytes(of: 1, toByteOffset: 127, as: UInt8.self) }
        #expect(bytes.withBytes { copy($0) } == Bytes(repeating: 0, count: 127) + [1])
    }

    @Test func `randomness is what was handed in, the same on every machine`() {
        let random = fixed(hex("0102030405060708 090a0b0c"))
        #expect(random.next() == 0x0807_0605_0403_0201)
        #expect(random.nextUInt32() == 0x0c0b_0a09)
        #expect(RandomSource.system.next() != RandomSource.system.next())
    }
}

/// A stack of secrets: an array can't hold what can't be copied.
private final class Keeper {
    private struct Link: ~Copyable {
        let secret: Secret
        let next: Keeper
    }

    private var link: Link?

    func add(_ secret: consuming Secret) {
        let rest = Keeper()
        rest.link = link.take()
        link = Link(secret: secret, next: rest)
    }

    func removeAll(_ body: (borrowing Secret) -> Void) {
        while let top = link.take() {
            body(top.secret)
            link = top.next.link.take()
        }
    }
}
