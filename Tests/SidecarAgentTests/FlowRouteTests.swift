import NIOCore
import Testing

@testable import SidecarAgent

@Suite struct FlowRouteTests {
    private static func at(_ milliseconds: Int64) -> NIODeadline { .uptimeNanoseconds(0) + .milliseconds(milliseconds) }
    private static let question = ByteBuffer(string: "question")

    @Test func theHeaderIsSentUntilItHasArrived() {
        var route = FlowRoute()
        #expect(route.way == .original)
        route.begin(7)
        #expect(route.way == .workspace(7) && !route.isKnown)
        route.headerArrived()
        #expect(route.isKnown)
        route.headerIsMissing()
        #expect(!route.isKnown && route.way == .workspace(7))
    }

    @Test func whatWasRefusedIsTheOriginals() {
        var route = FlowRoute()
        route.begin(0)
        route.sent(Self.question, at: Self.at(0))
        #expect(route.refused(at: Self.at(100)) == [Self.question])
        #expect(route.way == .original)
        // The workspace is tried again, but not at once.
        #expect(!route.mayTryWorkspace(at: Self.at(5_099)))
        #expect(route.mayTryWorkspace(at: Self.at(5_100)))
        route.begin(1)
        #expect(route.mayTryWorkspace(at: Self.at(5_100)))
        #expect(route.refused(at: Self.at(5_101)) == [])
    }

    @Test func whatIsOldOrWasAnsweredIsNobodysAnyMore() {
        var route = FlowRoute()
        route.begin(0)
        route.sent(Self.question, at: Self.at(0))
        route.sent(ByteBuffer(string: "again"), at: Self.at(1_500))
        #expect(route.refused(at: Self.at(2_000)) == [ByteBuffer(string: "again")])
        route.begin(1)
        route.sent(Self.question, at: Self.at(3_000))
        route.answered(at: Self.at(3_000))
        route.sent(Self.question, at: Self.at(3_001))
        #expect(route.refused(at: Self.at(3_002)) == [])
    }

    @Test func aFlowIsUnderWayForAWhileAfterAnAnswer() {
        var route = FlowRoute()
        route.begin(0)
        route.sent(Self.question, at: Self.at(0))
        #expect(!route.isUnderWay(at: Self.at(1)))
        route.answered(at: Self.at(10))
        #expect(route.isUnderWay(at: Self.at(5_009)))
        #expect(!route.isUnderWay(at: Self.at(5_010)))
        route.answered(at: Self.at(6_000))
        #expect(route.isUnderWay(at: Self.at(6_001)))
        route.leave()
        #expect(!route.isUnderWay(at: Self.at(6_002)))
    }

    @Test func fewAreKept() {
        var route = FlowRoute()
        route.begin(0)
        for number in 0..<1_000_000 as Range<UInt64> { route.sent(ByteBuffer(integer: number), at: Self.at(0)) }
        #expect(route.refused(at: Self.at(1)) == (999_996..<1_000_000).map { ByteBuffer(integer: UInt64($0)) })
        route.begin(1)
        route.sent(Self.question, at: Self.at(0))
        route.sent(ByteBuffer(repeating: 1, count: 8_192), at: Self.at(0))
        #expect(route.refused(at: Self.at(1)).map(\.readableBytes) == [8_192])
        route.begin(2)
        route.sent(Self.question, at: Self.at(0))
        route.sent(ByteBuffer(repeating: 1, count: 8_193), at: Self.at(0))
        #expect(route.refused(at: Self.at(1)) == [Self.question])
    }

    /// What went to a workspace that is gone may have reached a server.
    @Test func leavingGivesNothingBack() {
        var route = FlowRoute()
        route.begin(0)
        route.sent(Self.question, at: Self.at(0))
        route.leave()
        #expect(route.way == .original && route.mayTryWorkspace(at: Self.at(0)))
        #expect(route.refused(at: Self.at(1)) == [])
    }
}
