import Logging
import NIOCore
import Synchronization
import Testing

@testable import InterceptProtocol

@Suite struct LogShareTests {
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000)

    @Test func `a peer's lines are bounded, and what was left out is told`() {
        let share = LogShare()
        let taken = (0..<10_000).count { _ in share.takeLine(at: self.start) != nil }
        #expect(taken == 20)
        #expect(share.takeLine(at: self.start + .seconds(9)) == nil)
        #expect(share.takeLine(at: self.start + .seconds(10)) == 10_000 - 20 + 1)
        #expect(share.takeLine(at: self.start + .seconds(10)) == nil)
    }

    @Test func `a limited log passes on what it may, with the same level`() {
        let lines = Lines()
        var log = Logger(label: "test") { _ in lines }
        log.logLevel = .info
        let limited = log.limited(by: LogShare())
        for number in 0..<1_000 {
            limited.info("\(number)")
            limited.debug("not asked for")
        }
        #expect(lines.all.withLock { $0 } == (0..<20).map { "\($0)" })
    }

    @Test func `an allowance fills with time, and never above its size`() {
        var allowance = Allowance(atOnce: 2, interval: .milliseconds(100))
        func take(after milliseconds: Int64) -> Bool { allowance.take(at: self.start + .milliseconds(milliseconds)) }
        #expect([0, 0, 0, 99, 100, 100].map(take) == [true, true, false, false, true, false])
        #expect(allowance.next == self.start + .milliseconds(200))
        #expect([10_000, 10_000, 10_000].map(take) == [true, true, false])
    }

    private final class Lines: LogHandler, Sendable {
        let all = Mutex<[String]>([])

        var metadata: Logger.Metadata {
            get { [:] }
            set {}
        }
        var logLevel: Logger.Level {
            get { .info }
            set {}
        }
        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { nil }
            set {}
        }

        func log(event: LogEvent) { self.all.withLock { $0.append("\(event.message)") } }
    }
}
