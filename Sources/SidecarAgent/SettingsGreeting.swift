import NIOCore

/// The empty SETTINGS frame by which the sidecar gets an HTTP/2 client to speak, as a server's begins its side of a connection, and
/// what has to be taken out of the client's bytes because of it.
///
/// grpc-go, and so a kubelet's gRPC probe, sends its preface and settings, and then nothing until the server's settings have come.
/// The side that gets the client sends settings of its own, which add to these (RFC 9113, section 6.5.3), and knows nothing of an
/// acknowledgement of others: many servers end the connection when one comes. A client acknowledges settings in their order, so its
/// first acknowledgement is taken out.
struct SettingsGreeting {
    /// Length 0, type SETTINGS, no flag, stream 0.
    static let frame: [UInt8] = [0, 0, 0, 4, 0, 0, 0, 0, 0]
    private static let acknowledgement: [UInt8] = [0, 0, 0, 4, 1, 0, 0, 0, 0]

    /// How much of the preface or of a frame is still to come.
    private var rest = ProbeSignature.http2Preface.count
    /// A frame's header that hasn't come whole yet.
    private var header = ByteBuffer()
    private(set) var isAcknowledged = false

    /// - Parameter bytes: what the client has sent, without gaps from the connection's first byte on.
    /// - Returns: what of it the server is to get now.
    mutating func take(_ bytes: ByteBuffer) -> ByteBuffer {
        guard !self.isAcknowledged else { return bytes }
        var (bytes, out) = (bytes, ByteBuffer())
        while !self.isAcknowledged, bytes.readableBytes > 0 {
            if self.rest > 0 {
                guard var part = bytes.readSlice(length: min(self.rest, bytes.readableBytes)) else { break }
                self.rest -= part.readableBytes
                out.writeBuffer(&part)
            } else if var part = bytes.readSlice(
                length: min(ProbeSignature.frameHeaderSize - self.header.readableBytes, bytes.readableBytes)
            ) {
                self.header.writeBuffer(&part)
                if self.header.readableBytes == ProbeSignature.frameHeaderSize { self.takeHeader(&out) }
            }
        }
        out.writeBuffer(&bytes)
        return out
    }

    private mutating func takeHeader(_ out: inout ByteBuffer) {
        defer { self.header.clear() }
        guard !self.header.readableBytesView.elementsEqual(Self.acknowledgement) else {
            self.isAcknowledged = true
            return
        }
        self.rest = ProbeSignature.payloadLength(self.header.readableBytesView)
        out.writeBuffer(&self.header)
    }

    /// What was kept back, when no more comes.
    mutating func takeRest() -> ByteBuffer {
        defer { self.header.clear() }
        return self.header
    }
}
