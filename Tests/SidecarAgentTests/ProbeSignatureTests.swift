import NIOCore
import Testing

@testable import SidecarAgent

@Suite("what a health probe says first")
struct ProbeSignatureTests {
    private func signature(_ bytes: [UInt8]) -> ProbeSignature { .of(ByteBuffer(bytes: bytes).readableBytesView) }
    private func signature(_ text: String) -> ProbeSignature { self.signature(Array(text.utf8)) }

    @Test(
        "a kubelet's request, in whatever order its headers stand",
        arguments: [
            "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: kube-probe/1.30\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.1\r\nuser-agent:kube-probe/1.28\r\n",
            "HEAD / HTTP/1.1\nUSER-AGENT: \tkube-probe/1.30\n\n",
        ]
    )
    func kubelet(_ text: String) { #expect(self.signature(text) == .isProbe) }

    @Test(
        "anybody else's",
        arguments: [
            "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: curl/8\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nX: User-Agent: kube-probe/1.30\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nUser-Agent: kube-probe/1.30\r\n",
            "DELETE / HTTP/1.1\r\nUser-Agent: kube-probe/1.30\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "\u{16}\u{3}\u{1}",
            "kube-probe/",
            "\n\n\n",
        ]
    )
    func others(_ text: String) { #expect(self.signature(text) == .isOther) }

    @Test("not told apart yet, until there is no more to wait for")
    func undecided() {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.30\r\n"
        for count in 0..<request.utf8.count - 1 {
            #expect(self.signature(Array(request.utf8.prefix(count))) == .needsMore, "\(count)")
        }
        let endless = "GET /" + String(repeating: "a", count: ProbeSignature.bytesAtMost)
        #expect(self.signature(endless) == .isOther)
    }

    @Test("a User-Agent that stands behind what is looked at")
    func behind() {
        let padding = String(repeating: "a", count: ProbeSignature.bytesAtMost)
        #expect(self.signature("GET / HTTP/1.1\r\nX: \(padding)\r\nUser-Agent: kube-probe/1.30\r\n\r\n") == .isOther)
    }

    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    private static let settings: [UInt8] = [0, 0, 0, 4, 0, 0, 0, 0, 0]

    private func headers(_ block: [UInt8], claiming length: Int? = nil) -> [UInt8] {
        let length = length ?? block.count
        let size = [UInt8(length >> 16 & 0xff), UInt8(length >> 8 & 0xff), UInt8(length & 0xff)]
        return Self.preface + Self.settings + size + [1, 4, 0, 0, 0, 1] + block
    }

    @Test("a gRPC health check, by its path in plain or in Huffman's code")
    func grpc() {
        let plain = Array("/grpc.health.v1.Health/Check".utf8)
        #expect(self.signature(self.headers([0x44, UInt8(plain.count)] + plain)) == .isProbe)
        // The same path as a client's HPACK encoder has it: 20 bytes.
        let coded: [UInt8] = [
            0x62, 0x6b, 0x2b, 0x22, 0xf3, 0x94, 0x74, 0x26, 0x75, 0xfb, 0x85, 0x7c, 0x65, 0x1d, 0x09, 0x9d,
        ]
        #expect(self.signature(self.headers([0x44, 0x94] + coded + [0x0f, 0xff])) == .isProbe)
        #expect(self.signature(self.headers([0x44, 2, 0x2f, 0x61])) == .isOther)
    }

    @Test("HTTP/2 that isn't there yet, or lies about its lengths")
    func http2() {
        #expect(self.signature(Array(Self.preface.prefix(7))) == .needsMore)
        #expect(self.signature(Self.preface) == .needsMore)
        #expect(self.signature(Self.preface + Self.settings) == .awaitsSettings)
        let update: [UInt8] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0]
        #expect(self.signature(Self.preface + Self.settings + update) == .awaitsSettings)
        #expect(self.signature(Self.preface + Self.settings + update.dropLast()) == .needsMore)
        #expect(self.signature(Self.preface + update) == .needsMore)
        #expect(self.signature(self.headers([0x44], claiming: 0xff_ffff)) == .needsMore)
        let flood = (0..<200).flatMap { _ in Self.settings }
        #expect(self.signature(Self.preface + flood) == .isOther)
        let huge: [UInt8] = [0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0]
        #expect(self.signature(Self.preface + huge + [UInt8](repeating: 0, count: 1_024)) == .isOther)
    }
}
