import InterceptModel
import InterceptProtocol
import NIOCore
import Noise
import Testing

@testable import SidecarAgent

@Suite final class HolderTableTests {
    private let ada = HolderTableTests.key()
    private let bo = HolderTableTests.key()
    private let cy = HolderTableTests.key()
    private var table = HolderTable()
    private let start = NIODeadline.uptimeNanoseconds(0)

    private static func key() -> PublicKey { StaticKeyPair.generate().publicKey }

    private func intercept(_ ports: ServicePort..., refuses: Bool = false, generation: UInt64 = 1) -> Holding {
        var start = ControlMessage.Start(generation: generation, workspace: "", ports: ports)
        if refuses { start.onUnavailable = .refuse }
        return Holding(start)
    }

    private func mirror(_ ports: ServicePort...) -> Holding {
        Holding(ControlMessage.Mirror(generation: 1, workspace: "", ports: ports))
    }

    /// Holds if nothing refuses it.
    private func hold(_ key: PublicKey, _ holding: Holding) -> HolderTable.Refusal? {
        if let refusal = self.table.refusal(of: key, holding.kind, holding.claimed) { return refusal }
        self.table.hold(key, label: key.abbreviated, holding)
        return nil
    }

    private func inTheWay(_ refusal: HolderTable.Refusal?) -> [PublicKey] {
        guard case .busy(let others)? = refusal else { return [] }
        return others.map(\.key)
    }

    @Test func `ports are in each other's way, not services`() {
        #expect(self.hold(self.ada, self.intercept(.init(80), .init(53, .udp))) == nil)
        #expect(self.hold(self.bo, self.intercept(.init(81), .init(53))) == nil)
        #expect(self.inTheWay(self.hold(self.cy, self.intercept(.init(82), .init(53, .udp)))) == [self.ada])
        #expect(self.inTheWay(self.hold(self.cy, self.intercept(.init(81), .init(80)))) == [self.ada, self.bo])
        #expect(self.table.defaultSide(of: .init(80))?.key == self.ada)
        #expect(self.table.defaultSide(of: .init(53))?.key == self.bo)
        #expect(self.table.defaultSide(of: .init(53, .udp))?.key == self.ada)
        #expect(self.table.defaultSide(of: .init(82)) == nil)
        #expect(self.table.divertedPorts == [.init(80), .init(53, .udp), .init(81), .init(53)])
        #expect(self.table.interceptedPorts == [80, 81, 53])
        self.table.remove(self.ada)
        #expect(self.hold(self.cy, self.intercept(.init(80))) == nil)
        #expect(self.table.divertedPorts == [.init(80), .init(81), .init(53)])
    }

    @Test func `a mirror is in nobody's way, and takes nothing from whoever has the port`() {
        #expect(self.hold(self.ada, self.mirror(.init(80))) == nil)
        #expect(self.table.divertedPorts == [.init(80)] && self.table.interceptedPorts == [])
        #expect(self.table.holder(of: .init(80)) == nil)
        #expect(self.hold(self.bo, self.intercept(.init(80))) == nil)
        #expect(self.hold(self.cy, self.mirror(.init(80), .init(81))) == nil)
        #expect(self.table.defaultSide(of: .init(80))?.key == self.bo)
        #expect(self.table.mirrors(of: .init(80)).map(\.key) == [self.ada, self.cy])
        self.table.remove(self.bo)
        #expect(self.table.divertedPorts == [.init(80), .init(81)] && self.table.interceptedPorts == [])
        self.table.isNoLongerServed(self.cy)
        #expect(self.table.mirrors(of: .init(80)).map(\.key) == [self.ada])
        #expect(self.table.divertedPorts == [.init(80)])
    }

    @Test func `so many mirrors, and no more`() {
        for _ in 0..<HoldingKind.mirrorsAtMost { #expect(self.hold(Self.key(), self.mirror(.init(80))) == nil) }
        #expect(self.hold(self.ada, self.mirror(.init(81))) == .tooManyMirrors)
        #expect(self.hold(self.ada, self.intercept(.init(80))) == nil)
        let one = self.table.mirrors(of: .init(80))[3].key
        // Its list may change.
        #expect(self.hold(one, self.mirror(.init(81))) == nil)
        self.table.remove(one)
        #expect(self.hold(self.bo, self.mirror(.init(81))) == nil)
    }

    @Test func `a key has one holding, of one kind`() {
        #expect(self.hold(self.ada, self.mirror(.init(80))) == nil)
        #expect(self.hold(self.ada, self.intercept(.init(81))) == .otherKind(.mirror))
        #expect(self.hold(self.bo, self.intercept(.init(80))) == nil)
        #expect(self.hold(self.bo, self.mirror(.init(80))) == .otherKind(.intercept))
        self.table.remove(self.ada)
        #expect(self.hold(self.ada, self.intercept(.init(81))) == nil)
    }

    /// As a workspace does whose local server isn't there.
    @Test func `a port that is left out goes to the original, and to nobody else`() {
        #expect(self.hold(self.ada, self.intercept(.init(80), .init(81))) == nil)
        #expect(self.hold(self.ada, self.intercept(.init(81), generation: 2)) == nil)
        #expect(self.table.holder(of: .init(80)) == nil)
        #expect(self.table.divertedPorts == [.init(81)])
        #expect(self.inTheWay(self.hold(self.bo, self.intercept(.init(80)))) == [self.ada])
        let since = self.table[self.ada]?.since
        #expect(self.hold(self.ada, self.intercept(.init(80), generation: 3)) == nil)
        #expect(self.table.defaultSide(of: .init(80))?.key == self.ada)
        #expect(self.table[self.ada]?.since == since && self.table.entries.count == 1)
    }

    @Test func `a workspace that says what is absent gives back everything else`() {
        #expect(self.hold(self.ada, self.intercept(.init(80), .init(81), .init(82))) == nil)
        var holding = self.intercept(.init(81), generation: 2)
        holding.absent = [.init(82)]
        #expect(self.hold(self.ada, holding) == nil)
        #expect(self.inTheWay(self.hold(self.bo, self.intercept(.init(82)))) == [self.ada])
        #expect(self.hold(self.bo, self.intercept(.init(80))) == nil)
        #expect(self.table.defaultSide(of: .init(80))?.key == self.bo)
        holding.absent = []
        #expect(self.hold(self.ada, holding) == nil)
        #expect(self.hold(self.cy, self.intercept(.init(82))) == nil)
    }

    @Test func `a holder that is gone keeps its ports, and is no default side`() {
        _ = self.hold(self.ada, self.intercept(.init(80)))
        _ = self.hold(self.bo, self.intercept(.init(81), refuses: true))
        for key in [self.ada, self.bo] { self.table.isNoLongerServed(key) }
        #expect(self.table.defaultSide(of: .init(80)) == nil && self.table.holder(of: .init(80))?.key == self.ada)
        // Where clients are refused they must come to the sidecar for that.
        #expect(self.table.divertedPorts == [.init(81)] && self.table.interceptedPorts == [81])
        #expect(self.inTheWay(self.hold(self.cy, self.intercept(.init(80)))) == [self.ada])
    }

    @Test func `what the kernel refused is undone`() {
        _ = self.hold(self.ada, self.intercept(.init(80)))
        let before = self.table[self.ada]
        _ = self.hold(self.ada, self.intercept(.init(81), generation: 2))
        self.table.restore(before, of: self.ada)
        #expect(self.table[self.ada] == before)
        #expect(self.table.divertedPorts == [.init(80)] && self.table.holder(of: .init(81)) == nil)
        _ = self.hold(self.bo, self.intercept(.init(81)))
        self.table.restore(nil, of: self.bo)
        #expect(self.table.entries.map(\.key) == [self.ada])
    }

    // MARK: Claims

    private func claim(_ key: PublicKey, _ ports: ServicePort..., at now: NIODeadline) {
        self.table.claim(key, label: "x", .intercept, Set(ports), at: now)
    }

    @Test func `a claim keeps its ports from others, and diverts nothing`() {
        self.claim(self.ada, .init(80), at: self.start)
        #expect(self.inTheWay(self.hold(self.bo, self.intercept(.init(80)))) == [self.ada])
        #expect(self.table.divertedPorts == [] && self.table.holder(of: .init(80)) == nil)
        #expect(self.hold(self.ada, self.intercept(.init(80))) == nil)
        #expect(self.table.defaultSide(of: .init(80))?.key == self.ada)
        #expect(self.table.nextClaimEnd == nil)
        #expect(self.table.expireClaims(at: .distantFuture) == [])
    }

    @Test func `a claim whose workspace doesn't come ends`() {
        self.claim(self.ada, .init(80), at: self.start)
        self.claim(self.bo, .init(81), at: self.start + .seconds(1))
        #expect(self.table.nextClaimEnd == self.start + HolderTable.claimStands)
        #expect(self.table.expireClaims(at: self.start + HolderTable.claimStands - .nanoseconds(1)) == [])
        #expect(self.table.expireClaims(at: self.start + HolderTable.claimStands).map(\.key) == [self.ada])
        #expect(self.hold(self.cy, self.intercept(.init(80))) == nil)
        #expect(self.inTheWay(self.hold(self.cy, self.intercept(.init(81)))) == [self.bo])
    }

    @Test func `who claims otherwise while it holds frees the rest`() {
        _ = self.hold(self.ada, self.intercept(.init(80), .init(81)))
        _ = self.hold(self.ada, self.intercept(.init(81), generation: 2))
        self.claim(self.ada, .init(82), at: self.start)
        #expect(self.hold(self.bo, self.intercept(.init(80))) == nil)
        #expect(self.inTheWay(self.table.refusal(of: self.cy, .intercept, [.init(82)])) == [self.ada])
        #expect(self.table.defaultSide(of: .init(81))?.key == self.ada && self.table.nextClaimEnd == nil)
    }

    @Test func `a claim of one kind gives way to what its workspace asks for`() {
        self.claim(self.ada, .init(80), at: self.start)
        #expect(self.hold(self.ada, self.mirror(.init(81))) == nil)
        #expect(self.hold(self.bo, self.intercept(.init(80))) == nil)
        #expect(self.table.mirrors(of: .init(81)).map(\.key) == [self.ada])
    }
}
