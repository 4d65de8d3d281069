import Testing

@testable import WorkspaceAgent

@Suite struct LocalDescriptorsTests {
    /// A sidecar that opens all it may leaves some to every other.
    @Test(arguments: [64, 256, 1_024, 4_096, 1_048_576])
    func `one takes four fifths, and the next finds some`(limit: Int) {
        let all = LocalDescriptors(limit: limit)
        #expect(all.atMost <= limit - min(192, limit / 2))
        let greedy = DescriptorShare(of: all)
        var held: [HeldDescriptor] = []
        while let one = greedy.take() { held.append(one) }
        #expect(abs(greedy.count - all.mostForOne) <= 1)
        for _ in 0..<3 {
            let other = DescriptorShare(of: all)
            guard let one = other.take() else {
                Issue.record("nothing is left")
                return
            }
            held.append(one)
        }
        held.removeAll()
        #expect(greedy.count == 0)
        #expect(greedy.take() != nil)
    }
}
