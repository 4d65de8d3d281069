import Environments
import Testing

@testable import KubernetesEnvironment

struct APIConversationTests {
    @Test("A query's names and values are escaped byte by byte")
    func escaping() {
        let request = APIConversation.Request(
            "/api/v1/pods",
            [("labelSelector", "app=käse,tier in (a)"), ("limit", "5")]
        )
        #expect(request.target == "/api/v1/pods?labelSelector=app%3Dk%C3%A4se%2Ctier%20in%20%28a%29&limit=5")
        #expect(APIConversation.Request("/version", []).target == "/version")
    }

    @Test("Lines come whole, however they were cut into pieces")
    func lines() throws {
        for size in 1...12 {
            var splitter = LineSplitter(limit: 8)
            var found: [String] = []
            let text = Array("one\n\ntwo\nthree, al\nrest".utf8.filter { $0 != 0x2C })
            for start in stride(from: 0, to: text.count, by: size) {
                let piece = text[start..<min(start + size, text.count)]
                found += try splitter.lines(piece).map { String(decoding: $0, as: UTF8.self) }
            }
            #expect(found == ["one", "", "two", "three al"])
        }
    }

    @Test("A line that is longer than the limit is an error, and isn't kept")
    func longLines() {
        #expect(throws: APIFailure.lineTooLong) {
            var splitter = LineSplitter(limit: 8)
            for _ in 0..<3 { _ = try splitter.lines(Array("aaaa".utf8)) }
        }
        #expect(throws: APIFailure.lineTooLong) {
            var splitter = LineSplitter(limit: 8)
            _ = try splitter.lines(Array("aaaabbbbc\n".utf8))
        }
    }
}
