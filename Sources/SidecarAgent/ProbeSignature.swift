import NIOCore

/// Whether a client's first bytes are a health probe's.
///
/// A kubelet sends `User-Agent: kube-probe/1.30`; a gRPC probe calls `grpc.health.v1.Health`, once the server's settings have come.
/// Over HTTPS neither can be seen.
enum ProbeSignature: Equatable {
    case isProbe
    case isOther
    case needsMore
    /// The same; but an HTTP/2 client has said all that it says before the server's settings come.
    case awaitsSettings

    /// Only this many bytes are examined.
    static let bytesAtMost = 1_024

    /// - Parameter said: what the client has sent, from the connection's first byte on.
    static func of(_ said: ByteBufferView) -> ProbeSignature {
        let bytes = said.prefix(Self.bytesAtMost)
        let isWhole = said.count >= Self.bytesAtMost
        guard !bytes.isEmpty else { return .needsMore }
        if Self.isPrefix(bytes, of: Self.http2Preface) { return .needsMore }
        if bytes.starts(with: Self.http2Preface) { return Self.ofHTTP2(bytes, isWhole: isWhole) }
        return Self.ofHTTP1(bytes, isWhole: isWhole)
    }

    // MARK: HTTP/1

    private static let methods = ["GET ", "HEAD ", "POST "].map { Array($0.utf8) }
    private static let userAgent = Array("user-agent:".utf8)
    private static let kubeProbe = Array("kube-probe/".utf8)

    private static func ofHTTP1(_ bytes: ByteBufferView.SubSequence, isWhole: Bool) -> ProbeSignature {
        guard Self.methods.contains(where: { bytes.starts(with: $0) || Self.isPrefix(bytes, of: $0) }) else {
            return .isOther
        }
        let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        // The last line isn't complete yet.
        for line in lines.dropFirst().dropLast() {
            let line = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
            if line.isEmpty { return .isOther }
            guard line.count >= Self.userAgent.count,
                line.prefix(Self.userAgent.count).lazy.map(\.lowercased)
                    .elementsEqual(Self.userAgent)
            else { continue }
            let value = line.dropFirst(Self.userAgent.count).drop {
                $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t")
            }
            return value.starts(with: Self.kubeProbe) ? .isProbe : .isOther
        }
        return isWhole ? .isOther : .needsMore
    }

    // MARK: HTTP/2

    /// RFC 9113, section 3.4.
    static let http2Preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    private static let (headersFrame, settingsFrame): (UInt8, UInt8) = (1, 4)
    static let frameHeaderSize = 9

    /// - Parameter header: of a frame, whole.
    static func payloadLength(_ header: some Sequence<UInt8>) -> Int {
        header.prefix(3).reduce(0) { $0 << 8 | Int($1) }
    }

    /// A header's value stands in a HEADERS frame literally or Huffman-coded, and either form begins at a whole byte (RFC
    /// 7541, section 5.2). These are `/grpc.health.v1.Health/` and `kube-probe/`; of the Huffman code only its whole bytes.
    private static let values: [[UInt8]] = [
        Array("/grpc.health.v1.Health/".utf8),
        [
            0x62, 0x6b, 0x2b, 0x22, 0xf3, 0x94, 0x74, 0x26, 0x75, 0xfb, 0x85, 0x7c, 0x65, 0x1d, 0x09, 0x9d,
        ],
        kubeProbe,
        [
            0xeb, 0x6c, 0x65, 0x5a, 0xbb, 0x0f, 0x19, 0x58,
        ],
    ]

    private static func ofHTTP2(_ bytes: ByteBufferView.SubSequence, isWhole: Bool) -> ProbeSignature {
        var rest = bytes.dropFirst(Self.http2Preface.count)
        var hasSettings = false
        while rest.count >= Self.frameHeaderSize {
            let header = Array(rest.prefix(Self.frameHeaderSize))
            let length = Self.payloadLength(header)
            let payload = rest.dropFirst(Self.frameHeaderSize).prefix(length)
            if header[3] == Self.headersFrame {
                if Self.values.contains(where: { Self.contains(payload, $0) }) { return .isProbe }
                return payload.count == length || isWhole ? .isOther : .needsMore
            }
            guard payload.count == length else { break }
            hasSettings = hasSettings || header[3] == Self.settingsFrame
            rest = rest.dropFirst(Self.frameHeaderSize + length)
        }
        guard !isWhole else { return .isOther }
        return hasSettings && rest.isEmpty ? .awaitsSettings : .needsMore
    }

    // MARK: Bytes

    private static func isPrefix(_ bytes: ByteBufferView.SubSequence, of whole: [UInt8]) -> Bool {
        bytes.count < whole.count && whole.starts(with: bytes)
    }

    /// Both are short: at most 1 KiB times 23.
    private static func contains(_ bytes: ByteBufferView.SubSequence, _ pattern: [UInt8]) -> Bool {
        guard bytes.count >= pattern.count else { return false }
        return bytes.indices.dropLast(pattern.count - 1).contains { bytes[$0...].starts(with: pattern) }
    }
}

extension UInt8 {
    fileprivate var lowercased: UInt8 { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(self) ? self | 0x20 : self }
}
