import NIOEmbedded
import Testing

@testable import Diversion

struct LinkWatchTests {
    private final class Links {
        var count: Int? = 1
        var ended = 0
    }

    @Test func callsOnceAfterTheLastHasGoneForAWhile() {
        let loop = EmbeddedEventLoop()
        let links = Links()
        let watch = LinkWatch(eventLoop: loop) { links.count }
        watch.start { links.ended += 1 }
        loop.advanceTime(by: .seconds(10))
        links.count = 0
        loop.advanceTime(by: .seconds(1))
        #expect(links.ended == 0)
        // Another network takes its place; and for a moment it can't be told.
        links.count = 2
        loop.advanceTime(by: .milliseconds(500))
        links.count = nil
        loop.advanceTime(by: .seconds(5))
        links.count = 0
        loop.advanceTime(by: .seconds(1))
        #expect(links.ended == 0)
        loop.advanceTime(by: .seconds(10))
        #expect(links.ended == 1)
    }

    @Test func aNamespaceThatNeverHadOneIsNotLeft() {
        let loop = EmbeddedEventLoop()
        let links = Links()
        links.count = 0
        let watch = LinkWatch(eventLoop: loop) { links.count }
        watch.start { links.ended += 1 }
        loop.advanceTime(by: .minutes(1))
        #expect(links.ended == 0)
    }
}
