import NIOCore
import NIOEmbedded
import Testing

@testable import SidecarAgent

struct FlowUpkeepTests {
    @Test func onceForEachPause() {
        let upkeep = FlowUpkeep(kernel: .seconds(30))
        let start = NIODeadline.uptimeNanoseconds(1_000)
        #expect(!upkeep.isDue(usedAt: start, keptAt: nil, at: start + .seconds(9)))
        #expect(upkeep.isDue(usedAt: start, keptAt: nil, at: start + .seconds(10)))
        #expect(!upkeep.isDue(usedAt: start, keptAt: start + .seconds(10), at: start + .seconds(100)))
        let again = start + .seconds(50)
        #expect(upkeep.isDue(usedAt: again, keptAt: start + .seconds(10), at: again + .seconds(10)))
    }

    /// Whatever the kernel's time is, a flow is seen before it is over.
    @Test(arguments: [nil, .seconds(1), .seconds(3), .seconds(30), .seconds(600)] as [TimeAmount?])
    func beforeTheKernelForgets(kernel: TimeAmount?) {
        let loop = EmbeddedEventLoop()
        let upkeep = FlowUpkeep(kernel: kernel)
        let time = kernel ?? .seconds(30)
        // Used just after a look.
        let usedAt = loop.now + .nanoseconds(1)
        var keptAt: NIODeadline?
        var looks = 0
        upkeep.begin(on: loop) {
            looks += 1
            if keptAt == nil, upkeep.isDue(usedAt: usedAt, keptAt: nil, at: loop.now) { keptAt = loop.now }
            return looks < 3
        }
        upkeep.begin(on: loop) {
            Issue.record("it has begun already")
            return false
        }
        loop.advanceTime(by: time)
        #expect(keptAt.map { $0 < usedAt + time } == true)
        loop.advanceTime(by: time * 10)
        #expect(looks == 3)
    }

    @Test func itEnds() {
        let loop = EmbeddedEventLoop()
        let upkeep = FlowUpkeep(kernel: .seconds(30))
        upkeep.begin(on: loop) {
            Issue.record("it was cancelled")
            return true
        }
        upkeep.cancel()
        loop.advanceTime(by: .seconds(100))
    }
}
