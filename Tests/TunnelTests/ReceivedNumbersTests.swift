import NIOCore
import Testing

@testable import Tunnel

@Suite struct ReceivedNumbersTests {
    private let start = Instant.seconds(1)

    private func write(_ numbers: inout ReceivedNumbers) -> UInt64? {
        var buffer = ByteBuffer()
        return numbers.writeAck(into: &buffer, room: 1_000, at: self.start)
    }

    @Test func dueAfterTime() {
        var numbers = ReceivedNumbers()
        numbers.receive(0, ackEliciting: false, bytes: 100, at: self.start)
        #expect(numbers.deadline == nil)
        #expect(!numbers.hasUnacknowledged)
        numbers.receive(1, ackEliciting: true, bytes: 100, at: self.start)
        #expect(numbers.deadline == self.start + .milliseconds(25))
        #expect(!numbers.isDue(at: self.start + .milliseconds(24)))
        #expect(numbers.isDue(at: self.start + .milliseconds(25)))
    }

    @Test func dueAfterBytes() {
        var numbers = ReceivedNumbers()
        numbers.receive(0, ackEliciting: true, bytes: 128 * 1_024 - 1, at: self.start)
        #expect(!numbers.isDue(at: self.start))
        numbers.receive(1, ackEliciting: true, bytes: 1, at: self.start)
        #expect(numbers.isDue(at: self.start))
    }

    /// A carrier that takes nothing must not make its driver spin.
    @Test func noDeadlineOnceDue() {
        var numbers = ReceivedNumbers()
        numbers.receive(0, ackEliciting: true, bytes: 100, at: self.start)
        numbers.handleDeadline(at: self.start + .milliseconds(24))
        #expect(numbers.deadline != nil)
        numbers.handleDeadline(at: self.start + .milliseconds(25))
        #expect(numbers.deadline == nil)
        #expect(numbers.isDue(at: self.start + .milliseconds(25)))
        expect(self.write(&numbers), is: 0)
        #expect(!numbers.isDue(at: .seconds(9)))
    }

    /// RFC 9000 §13.2.4: what the peer knows that we have isn't said again.
    @Test func forgetting() {
        var numbers = ReceivedNumbers()
        for number in [0, 1, 5, 6, 9] as [UInt64] {
            numbers.receive(number, ackEliciting: true, bytes: 1, at: self.start)
        }
        #expect(numbers.rangeCount == 3)
        expect(self.write(&numbers), is: 9)
        numbers.forget(through: 5)
        #expect(numbers.rangeCount == 2)
        expect(self.write(&numbers), is: 9)
        numbers.forget(through: 9)
        #expect(numbers.rangeCount == 0)
        expect(self.write(&numbers), is: nil)
    }

    /// One that comes after younger ones were forgotten is acknowledged all the same.
    @Test func lateOnes() {
        var numbers = ReceivedNumbers()
        numbers.receive(9, ackEliciting: true, bytes: 1, at: self.start)
        expect(self.write(&numbers), is: 9)
        numbers.forget(through: 9)
        numbers.receive(3, ackEliciting: true, bytes: 1, at: self.start)
        expect(self.write(&numbers), is: 3)
        // Which has not been named when the peer says that it knows younger ones.
        numbers.receive(4, ackEliciting: true, bytes: 1, at: self.start)
        numbers.forget(through: 9)
        #expect(numbers.hasUnacknowledged)
        expect(self.write(&numbers), is: 4)
        numbers.forget(through: 9)
        #expect(!numbers.hasUnacknowledged, "nothing can be owed that can't be named")
        expect(self.write(&numbers), is: nil)
    }

    @Test func rangesAreCapped() {
        var numbers = ReceivedNumbers()
        for index in 0..<UInt64(1_000) { numbers.receive(2 * index, ackEliciting: true, bytes: 1, at: self.start) }
        #expect(numbers.rangeCount == Constants.ackRangesKept)
        expect(self.write(&numbers), is: 1_998)
    }
}
