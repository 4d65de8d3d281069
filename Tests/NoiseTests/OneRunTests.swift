import Testing

@testable import Noise

/// With room around it a message is sealed and opened in another order than libsodium's AEAD has: to the same bytes.
@Suite struct OneRunTests {
    private let arena = SecretArena()
    private static let tag = CipherState.tagByteCount
    private static let counts =
        Array(0..<600) + [1_408, 1_440, 1_441, 2_047, 2_048, 2_049, 4_097, 16_383, 16_384, 65_520]
    private static let counters: [UInt64] = [0, 7, 1 << 32 | 5, .max - 1]

    /// In whole groups of four blocks nothing is to be saved.
    private static func hasSingleBlocks(_ count: Int) -> Bool { count % 256 != 0 }

    private func key() -> Secret {
        var key = self.arena.allocate(32)
        key.copy(from: counting(from: 0x80).span.bytes)
        return key
    }

    /// What libsodium's AEAD makes of it.
    private func reference(_ plaintext: Bytes, counter: UInt64) -> Bytes {
        writing(capacity: plaintext.count + Self.tag) { output in
            ChaChaPoly.seal(
                plaintext.span.bytes,
                additionalData: RawSpan(),
                key: self.key(),
                counter: counter,
                into: &output
            )
        }.bytes
    }

    @Test(arguments: Self.counters) func `sealed with room around it`(counter: UInt64) {
        let cipher = CipherState(key: self.key())
        for count in Self.counts {
            let plaintext = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            let expected = self.reference(plaintext, counter: counter)
            for (before, behind) in [(64, 256), (80, 300), (63, 256), (64, 255), (0, 16)] {
                let start = Bytes(repeating: 0xa5, count: before)
                var bytes = start + plaintext + Bytes(repeating: 0x5a, count: behind)
                bytes.withUnsafeMutableBytes { buffer in
                    var span = MutableRawSpan(_unsafeBytes: buffer)
                    cipher.sealInPlace(&span, at: before..<(before + count), counter: counter)
                }
                #expect(Bytes(bytes.prefix(before)) == start)
                #expect(Bytes(bytes.dropFirst(before).prefix(count + Self.tag)) == expected)
                let isOneRun = before >= 64 && behind >= 256 && Self.hasSingleBlocks(count)
                let rest = bytes.dropFirst(before + count + Self.tag)
                // So that what is compared is in fact the one with the other.
                #expect(rest.allSatisfy { $0 == 0x5a } == !isOneRun)
                #expect(bytes.dropFirst(before + count + 256).allSatisfy { $0 == 0x5a })
            }
        }
    }

    @Test(arguments: Self.counters) func `opened with room behind it`(counter: UInt64) {
        for count in Self.counts {
            let plaintext = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            let sealed = self.reference(plaintext, counter: counter)
            var forged = sealed
            forged[(count * 7) % forged.count] ^= 0x10
            let room = CipherState.roomToOpen(sealed.count)
            #expect(room > count || count > 2_048 || !Self.hasSingleBlocks(count))
            for capacity in Set([count, max(count, room - 1), room, room + 40]) {
                let isOneRun = capacity >= room && room > count
                let opened = self.open(sealed, counter: counter, capacity: capacity)
                #expect(opened.isAuthentic)
                #expect(opened.bytes == plaintext)
                // No key stream is left behind.
                let used = isOneRun ? room - count : 0
                #expect(opened.rest.prefix(used).allSatisfy { $0 == 0 })
                #expect(opened.rest.dropFirst(used).allSatisfy { $0 == 0x5a })

                let refused = self.open(forged, counter: counter, capacity: capacity)
                #expect(!refused.isAuthentic)
                #expect(refused.bytes == [])
                #expect(refused.rest.prefix(isOneRun ? room : count).allSatisfy { $0 == 0 })
                #expect(!self.open(sealed, counter: counter ^ 1, capacity: capacity).isAuthentic)
            }
        }
    }

    /// Behind three bytes that are there already, which stay: what it says, what it appends, and the room behind that.
    private func open(
        _ sealed: Bytes,
        counter: UInt64,
        capacity: Int
    ) -> (isAuthentic: Bool, bytes: Bytes, rest: Bytes) {
        let cipher = CipherState(key: self.key())
        let start: Bytes = [9, 8, 7]
        var memory = start + Bytes(repeating: 0x5a, count: capacity)
        var isAuthentic = false
        let end = memory.withUnsafeMutableBytes { buffer in
            var output = OutputRawSpan(buffer: buffer, initializedCount: start.count)
            isAuthentic = cipher.open(sealed.span.bytes, counter: counter, into: &output)
            return output.byteCount
        }
        #expect(Bytes(memory.prefix(start.count)) == start)
        return (isAuthentic, Bytes(memory[start.count..<end]), Bytes(memory[end...]))
    }
}
