import NIOCore
import Testing

@testable import InterceptProtocol

struct ProxyHeaderTests {
    private static let four = (
        ClientAddress(ipv4: 0xc000_0201, port: 40_000), ClientAddress(ipv4: 0x0a00_0007, port: 80)
    )
    private static let six = (
        ClientAddress(ipv6High: 0x2001_0db8_0000_0000, low: 1, port: 65_535),
        ClientAddress(ipv6High: 0xfd00_0000_0000_0000, low: 7, port: 443)
    )
    private static let nobody = ClientAddress(nil)

    private func text(_ header: ProxyHeader) -> String {
        var bytes = ByteBuffer()
        header.write(.v1, into: &bytes)
        return String(buffer: bytes)
    }

    private func hex(_ header: ProxyHeader) -> String {
        var bytes = ByteBuffer()
        header.write(.v2, into: &bytes)
        let digits = Array("0123456789abcdef")
        return String(bytes.readableBytesView.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
    }

    private let signature = "0d0a0d0a000d0a515549540a"

    @Test func version1() {
        #expect(
            self.text(.init(client: Self.four.0, destination: Self.four.1))
                == "PROXY TCP4 192.0.2.1 10.0.0.7 40000 80\r\n"
        )
        #expect(
            self.text(.init(client: Self.six.0, destination: Self.six.1))
                == "PROXY TCP6 2001:db8::1 fd00::7 65535 443\r\n"
        )
        #expect(
            self.text(.init(client: Self.four.0, destination: Self.six.1))
                == "PROXY TCP6 ::ffff:192.0.2.1 fd00::7 40000 443\r\n"
        )
    }

    @Test func version2() {
        #expect(
            self.hex(.init(client: Self.four.0, destination: Self.four.1))
                == self.signature + "2111000c" + "c0000201" + "0a000007" + "9c40" + "0050"
        )
        #expect(
            self.hex(.init(client: Self.six.0, destination: Self.six.1))
                == self.signature + "21210024" + "20010db8000000000000000000000001"
                + "fd000000000000000000000000000007" + "ffff" + "01bb"
        )
        #expect(
            self.hex(.init(client: Self.six.0, destination: Self.four.1))
                == self.signature + "21210024" + "20010db8000000000000000000000001"
                + "00000000000000000000ffff0a000007" + "ffff" + "0050"
        )
    }

    @Test func whatIsNotKnown() {
        for (client, destination) in [
            (Self.nobody, Self.four.1), (Self.four.0, Self.nobody), (Self.nobody, Self.six.1),
        ] {
            let header = ProxyHeader(client: client, destination: destination)
            #expect(self.text(header) == "PROXY UNKNOWN\r\n")
            #expect(self.hex(header) == self.signature + "21000000")
        }
        #expect(self.text(.local) == "PROXY UNKNOWN\r\n")
        #expect(self.hex(.local) == self.signature + "20000000")
    }

    @Test func theLongestFits() {
        let long = ClientAddress(ipv6High: 0xffff_ffff_ffff_ffff, low: 0xffff_ffff_ffff_ffff, port: 65_535)
        #expect(self.text(.init(client: long, destination: long)).utf8.count <= 107)
    }
}
