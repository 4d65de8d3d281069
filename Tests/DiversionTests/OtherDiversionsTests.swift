#if os(Linux)
import CNetlink
import InterceptModel
import Testing

@testable import Diversion

@Suite struct OtherDiversionsTests {
    private func others(_ tables: [(UInt64, [ServicePort: String?])], own: UInt64? = nil) -> OtherDiversions {
        var others = OtherDiversions()
        others.tables = tables.map { .init(handle: $0.0, ports: $0.1) }
        others.ownHandle = own
        return others
    }

    @Test func `a port of another sidecar is taken`() throws {
        let others = self.others([(3, [ServicePort(80): "ada@thinkpad", ServicePort(53, .udp): nil])])
        #expect(others.conflict(on: .init(tcp: [81, 53], udp: [80])) == nil)
        let conflict = try #require(others.conflict(on: .init(tcp: [79, 80])))
        #expect(conflict.isTaken && conflict.holder == "ada@thinkpad")
        #expect("\(conflict)" == "another sidecar in this network diverts port 80, for ada@thinkpad")
        let nameless = try #require(others.conflict(on: .init(udp: [53])))
        #expect(nameless.isTaken && nameless.holder == nil)
        #expect("\(nameless)" == "another sidecar in this network diverts port 53/udp")
    }

    @Test func `of two at the same moment the older table stays`() {
        let ports: [ServicePort: String?] = [ServicePort(80): nil]
        let wanted = DivertedPorts(tcp: [80])
        #expect(self.others([(7, ports)], own: 8).conflict(on: wanted, isOlder: true) != nil)
        #expect(self.others([(8, ports)], own: 7).conflict(on: wanted, isOlder: true) == nil)
        #expect(self.others([(8, ports)], own: 7).conflict(on: wanted) != nil)
    }

    // MARK: What is written is read

    /// The attributes of a message of elements, as the kernel sends it back: the same as it got.
    private func read(_ message: NFTablesMessage) -> [(port: UInt16, comment: String?)] {
        let bytes = [UInt8](repeating: 0, count: MemoryLayout<nfgenmsg>.size) + message.attributes.bytes
        return bytes.withUnsafeBytes { NFTablesSet.elements(of: $0) }
    }

    @Test(arguments: [
        ("ada@thinkpad", "ada@thinkpad"), ("a \"b\" \\c", "a 'b' 'c"), ("\u{1b}[2J", "[2J"), ("\n", nil),
        (String(repeating: "ä", count: 100), String(repeating: "ä", count: 63)),
    ])
    func `a comment comes back`(_ text: String, _ expected: String?) throws {
        let messages = RedirectRules.live.fill("kl_a", [80, 81], comments: [80: text])
        #expect(messages.count == 1)
        let found = self.read(try #require(messages.first))
        #expect(found.map(\.port) == [80, 81])
        #expect(found.map(\.comment) == [expected, nil])
    }

    @Test func `a list with comments fits into its attribute`() {
        let ports = Set<UInt16>(1...1_000)
        let comments = Dictionary(uniqueKeysWithValues: ports.map { ($0, String(repeating: "x", count: 300)) })
        let messages = RedirectRules.live.fill("kl_a", ports, comments: comments)
        #expect(messages.count == 4)
        #expect(messages.allSatisfy { $0.attributes.bytes.count < 65_536 })
        #expect(messages.flatMap { self.read($0) }.count == 1_000)
    }

    @Test func `nonsense is left out`() {
        #expect(RedirectRules.live.fill("kl_a", [80]).first.map { self.read($0).count } == 1)
        let all = RedirectRules.live.fill("kl_a", [80, 81], comments: [80: "ada"]).first?.attributes.bytes ?? []
        let header = [UInt8](repeating: 0, count: MemoryLayout<nfgenmsg>.size)
        for count in all.indices {
            // Cut off anywhere, and with any byte turned.
            _ = (header + all.prefix(count)).withUnsafeBytes { NFTablesSet.elements(of: $0) }
            var turned = all
            turned[count] ^= 0xFF
            let found = (header + turned).withUnsafeBytes { NFTablesSet.elements(of: $0) }
            #expect(found.count <= 2)
        }
        #expect([UInt8]().withUnsafeBytes { NFTablesSet.elements(of: $0) }.isEmpty)
    }
}
#endif
