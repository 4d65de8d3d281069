#if os(Linux)
import NIOCore

/// An IP packet with an ICMP "port unreachable" message, which quotes the headers of the datagram in question.
///
/// It has no options and none of the datagram's payload: the receiver finds its socket by addresses and ports.
struct UnreachableMessage: Equatable {
    /// 4 bytes or 16, in network order.
    let client: [UInt8]
    let clientPort: UInt16
    let called: [UInt8]
    let calledPort: UInt16
    /// The size of the datagram's payload.
    let size: Int

    /// nil if the addresses aren't of one family, or a port is missing.
    init?(client: SocketAddress, called: SocketAddress, size: Int) {
        self.client = RedirectDiversion.address(client)
        self.called = RedirectDiversion.address(called)
        guard !self.client.isEmpty, self.client.count == self.called.count,
            let clientPort = client.port.flatMap(UInt16.init(exactly:)), clientPort != 0,
            let calledPort = called.port.flatMap(UInt16.init(exactly:)), calledPort != 0
        else { return nil }
        self.clientPort = clientPort
        self.calledPort = calledPort
        self.size = size
    }

    var isIPv6: Bool { self.client.count == 16 }

    var bytes: [UInt8] {
        var datagram = Self.words([self.clientPort, self.calledPort, Self.length(8 + self.size), 0])
        datagram = self.header(17, from: self.client, to: self.called, Self.length(8 + self.size)) + datagram
        var message: [UInt8] = self.isIPv6 ? [1, 4, 0, 0] : [3, 3, 0, 0]
        message += [0, 0, 0, 0] + datagram
        var summed = message
        if self.isIPv6 {
            // RFC 8200 §8.1: the checksum includes addresses, length and next header.
            summed = self.called + self.client + Self.words([0, Self.length(message.count), 0, 58]) + message
        }
        let sum = Self.checksum(summed)
        message[2] = UInt8(sum >> 8)
        message[3] = UInt8(truncatingIfNeeded: sum)
        let kind: UInt8 = self.isIPv6 ? 58 : 1
        return self.header(kind, from: self.called, to: self.client, Self.length(message.count)) + message
    }

    /// - Parameter length: of what follows the header.
    private func header(_ kind: UInt8, from source: [UInt8], to destination: [UInt8], _ length: UInt16) -> [UInt8] {
        if self.isIPv6 { return [0x60, 0, 0, 0] + Self.words([length]) + [kind, 64] + source + destination }
        var header: [UInt8] = [0x45, 0] + Self.words([Self.length(20 + Int(length)), 0, 0]) + [64, kind, 0, 0]
        header += source + destination
        let sum = Self.checksum(header)
        header[10] = UInt8(sum >> 8)
        header[11] = UInt8(truncatingIfNeeded: sum)
        return header
    }

    private static func length(_ count: Int) -> UInt16 { UInt16(clamping: count) }

    private static func words(_ words: [UInt16]) -> [UInt8] {
        words.flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }
    }

    /// RFC 1071, for an even number of bytes.
    static func checksum(_ bytes: [UInt8]) -> UInt16 {
        var sum: UInt32 = 0
        for (offset, byte) in bytes.enumerated() { sum += offset % 2 == 0 ? UInt32(byte) << 8 : UInt32(byte) }
        while sum > 0xFFFF { sum = sum >> 16 + sum & 0xFFFF }
        return ~UInt16(sum)
    }
}
#endif
