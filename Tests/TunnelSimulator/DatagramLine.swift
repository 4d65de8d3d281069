import NIOCore
import Tunnel

/// The datagram path between one initiator and the responder, through a NAT.
final class DatagramLine {
    unowned let initiator: InitiatorEnd
    let up: DatagramLane
    let down: DatagramLane
    /// The open socket, by its carrier number in the initiator's tunnel; nil: none.
    var socket: CarrierID?
    /// The address behind which the responder sees the socket.
    private(set) var outside: PathAddress
    /// Larger datagrams are refused by the sender's kernel, which reports it; nil: they are lost on the way.
    var refusesAbove: Int?
    /// Until this time, each datagram comes from a new address.
    var flapsUntil: Int64 = 0

    private let random: SeededRandom

    init(_ initiator: InitiatorEnd, _ shape: DatagramLane.Shape, random: SeededRandom) {
        self.initiator = initiator
        self.random = random
        self.up = DatagramLane(shape, random: random.fork())
        self.down = DatagramLane(shape, random: random.fork())
        self.outside = Self.address(random)
    }

    /// A random address, IPv4 or IPv6.
    private static func address(_ random: SeededRandom) -> PathAddress {
        let port = UInt16(random.between(1_024...65_535))
        if random.isOne(in: 2) {
            return PathAddress(ipv4: 0x0a00_0000 | UInt32(random.between(0...0xff_ffff)), port: port)
        }
        return PathAddress(ipv6High: 0x2001_0db8_0000_0000, low: random.next(), port: port)
    }

    /// The NAT has dropped its mapping: datagrams to the old port are lost.
    func rebind() {
        let port = UInt16(self.random.between(1_024...65_535))
        if let ipv4 = self.outside.ipv4 {
            self.outside = PathAddress(ipv4: ipv4, port: port)
        } else {
            self.outside = PathAddress(ipv6High: self.outside.high, low: self.outside.low, port: port)
        }
    }

    /// The initiator has changed its network.
    func move() { self.outside = Self.address(self.random) }

    func send(_ bytes: ByteBuffer, at now: Int64) {
        if now < self.flapsUntil { self.move() }
        self.up.send(DatagramLane.Datagram(bytes: bytes, from: self.outside), at: now)
    }

    func isDark(until time: Int64, up: Bool, down: Bool) {
        if up { self.up.isDarkUntil = max(self.up.isDarkUntil, time) }
        if down { self.down.isDarkUntil = max(self.down.isDarkUntil, time) }
    }

    /// Ends blocking; loss and delay stay as they are.
    func heal() {
        self.up.isDarkUntil = 0
        self.down.isDarkUntil = 0
        self.flapsUntil = 0
    }
}
