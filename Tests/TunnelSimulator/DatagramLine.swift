import NIOCore
import Tunnel

/// The way of one initiator's datagrams to the responder and back, through a NAT.
final class DatagramLine {
    unowned let initiator: InitiatorEnd
    let up: DatagramLane
    let down: DatagramLane
    /// The socket, as the initiator's tunnel knows it; nil: none is open.
    var socket: CarrierID?
    /// From where the responder sees it, if the socket sends now.
    private(set) var outside: PathAddress
    /// Greater ones are refused by the sender's own system, which says so; else they vanish on the way.
    var refusesAbove: Int?
    /// Until then each datagram comes from another address.
    var flapsUntil: Int64 = 0

    private let random: SeededRandom

    init(_ initiator: InitiatorEnd, _ shape: DatagramLane.Shape, random: SeededRandom) {
        self.initiator = initiator
        self.random = random
        self.up = DatagramLane(shape, random: random.fork())
        self.down = DatagramLane(shape, random: random.fork())
        self.outside = Self.address(random)
    }

    /// Some of IPv4, some of IPv6.
    private static func address(_ random: SeededRandom) -> PathAddress {
        let port = UInt16(random.between(1_024...65_535))
        if random.isOne(in: 2) {
            return PathAddress(ipv4: 0x0a00_0000 | UInt32(random.between(0...0xff_ffff)), port: port)
        }
        return PathAddress(ipv6High: 0x2001_0db8_0000_0000, low: random.next(), port: port)
    }

    /// The NAT forgot: what the responder sends to the old port is lost.
    func rebind() {
        let port = UInt16(self.random.between(1_024...65_535))
        if let ipv4 = self.outside.ipv4 {
            self.outside = PathAddress(ipv4: ipv4, port: port)
        } else {
            self.outside = PathAddress(ipv6High: self.outside.high, low: self.outside.low, port: port)
        }
    }

    /// Another network.
    func move() { self.outside = Self.address(self.random) }

    func send(_ bytes: ByteBuffer, at now: Int64) {
        if now < self.flapsUntil { self.move() }
        self.up.send(DatagramLane.Datagram(bytes: bytes, from: self.outside), at: now)
    }

    func isDark(until time: Int64, up: Bool, down: Bool) {
        if up { self.up.isDarkUntil = max(self.up.isDarkUntil, time) }
        if down { self.down.isDarkUntil = max(self.down.isDarkUntil, time) }
    }

    /// What is bad stays so, but nothing is blocked any more.
    func heal() {
        self.up.isDarkUntil = 0
        self.down.isDarkUntil = 0
        self.flapsUntil = 0
    }
}
