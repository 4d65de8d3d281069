import Environments
import FoundationEssentials
import InterceptModel
import Testing

@testable import KubernetesEnvironment

private let ada = "WvbBB+ks9eg4tiROBmJxPDHUV8KbPvAYJWZdZ1JIlDo="
private let bob = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="

struct HolderListTests {
    private func record(
        _ key: String,
        _ ports: [ServicePort] = [.init(80), .init(53, .udp)],
        kind: HoldingKind = .intercept
    ) -> InterceptRecord {
        InterceptRecord(
            service: "web",
            holder: Member(label: "ada@thinkpad", publicKey: key),
            since: "2026-12-01T00:00:00Z",
            ports: ports.map { .init(service: $0.number, transport: $0.transport, target: "127.0.0.1:3000") },
            kind: kind
        )
    }

    private func text(_ list: HolderList) throws -> String { try #require(try list.text) }

    @Test("What is written is read, and the last one takes the annotation away")
    func roundTrip() throws {
        let now = try #require(UTCTime(rfc3339: "2026-12-01T00:01:00Z"))
        var list = try HolderList(annotation: nil)
        #expect(try list.text == nil)
        list.put(HolderList.Entry(self.record(ada), at: now))
        #expect(
            try self.text(list) == """
                {"holders":[{"key":"\(ada)","kind":"intercept","label":"ada@thinkpad",\
                "lastSeen":"2026-12-01T00:01:00Z","ports":["53/udp",80],"since":"2026-12-01T00:00:00Z"}],"version":1}
                """
        )
        let read = try HolderList(annotation: list.text)
        #expect(read == list)
        #expect(read.entries.first?.record(of: "web").ports.map { "\($0.port)" } == ["53/udp", "80"])
        list.remove(bob)
        #expect(list.entries.count == 1)
        list.remove(ada)
        #expect(try list.text == nil)
    }

    @Test("Fields and kinds of later versions stay")
    func unknown() throws {
        let later = """
            {"holders":[{"key":"\(bob)","kind":"filter","label":"bob","ports":[80],"since":"s","until":[1,null,{"a":1.5}]}],\
            "note":true,"version":1}
            """
        var list = try HolderList(annotation: later)
        #expect(list.entries.map(\.kind) == [.intercept])
        list.put(HolderList.Entry(self.record(ada, [.init(81)], kind: .mirror), at: .now))
        list.remove(ada)
        #expect(try self.text(list) == later)
        #expect(list.renew(bob, at: .now) && !list.renew(ada, at: .now))
        #expect(try self.text(list).contains(#""until":[1,null,{"a":1.5}]"#))
        list.remove(bob)
        #expect(try list.text == #"{"holders":[],"note":true,"version":1}"#)
    }

    @Test("Ports that another one takes")
    func taking() throws {
        var list = HolderList()
        list.put(HolderList.Entry(self.record(ada), at: .now))
        list.take([.init(80)], from: ada)
        #expect(list.entry(of: ada)?.ports == [.init(53, .udp)])
        list.take([.init(53)], from: ada)
        #expect(list.entry(of: ada)?.ports == [.init(53, .udp)])
        list.take([.init(53, .udp)], from: ada)
        #expect(list.entries.isEmpty)
    }

    @Test(
        "What can't be read is an error",
        arguments: [
            "x", "[]", "{}", #"{"version":1}"#, #"{"holders":[],"version":2}"#, #"{"holders":[]}"#,
            #"{"holders":[{"key":"AAAA","ports":[80]}],"version":1}"#,
            #"{"holders":[{"key":"\#(ada)","ports":[0]}],"version":1}"#,
            #"{"holders":[{"key":"\#(ada)","ports":[65536]}],"version":1}"#,
            #"{"holders":[{"key":"\#(ada)","ports":["80,81"]}],"version":1}"#,
            #"{"holders":[{"key":"\#(ada)"}],"version":1}"#,
            #"{"holders":[{"key":"\#(ada)","ports":[80]},{"key":"\#(ada)","ports":[81]}],"version":1}"#,
            #"{"holders":[\#(Array(repeating: "1", count: 65).joined(separator: ","))],"version":1}"#,
            String(repeating: " ", count: 20_000),
        ]
    )
    func unreadable(text: String) throws {
        #expect(throws: HolderList.Unreadable.self) { try HolderList(annotation: text) }
        var service = ServiceObject(metadata: ObjectMeta(name: "web"))
        service.metadata.annotations = [HolderList.annotation: text]
        let problem = #expect(throws: Problem.self) { try service.holders }
        #expect(problem?.description.contains("kubectl annotate service web kl.io/holders-") == true)
    }

    @Test("An annotation has room for so many")
    func bounds() throws {
        var list = HolderList()
        for number in 0..<64 {
            let key = Data((0..<32).map { _ in UInt8(number) }).base64EncodedString()
            list.put(HolderList.Entry(self.record(key, (1...40).map { ServicePort($0) }), at: .now))
        }
        let problem = #expect(throws: Problem.self) { try list.text }
        #expect(problem?.description.contains("has room for") == true)
    }

    @Test("Three minutes without a sign of life")
    func staleness() throws {
        let seen = try #require(UTCTime(rfc3339: "2026-12-01T00:00:00Z"))
        let entry = HolderList.Entry(self.record(ada), at: seen)
        #expect(!entry.isStale(at: UTCTime(seconds: seen.seconds + 180)))
        #expect(entry.isStale(at: UTCTime(seconds: seen.seconds + 181)))
        // Another machine's clock.
        #expect(!entry.isStale(at: UTCTime(seconds: seen.seconds - 1_000)))
        #expect(entry.isStale(at: UTCTime(seconds: seen.seconds - 3_601)))
        var nameless = entry
        nameless.lastSeen = "yesterday"
        #expect(nameless.isStale(at: seen))
    }

    @Test("A patch names the version that it changes")
    func patch() throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        func text(_ patch: HoldersPatch) throws -> String { String(decoding: try encoder.encode(patch), as: UTF8.self) }
        #expect(
            try text(HoldersPatch(resourceVersion: "7", text: "{}"))
                == #"{"metadata":{"annotations":{"kl.io/holders":"{}"},"resourceVersion":"7"}}"#
        )
        #expect(
            try text(HoldersPatch(resourceVersion: "7", text: nil))
                == #"{"metadata":{"annotations":{"kl.io/holders":null},"resourceVersion":"7"}}"#
        )
    }
}
