import NIOCore
import Noise
import Tunnel

/// Checks what the responder sends to addresses (RFC 9000 §8.1, and PROTOCOL, silence): nothing before the address has sent a
/// valid message, and at most three times the bytes received from it until it is validated.
final class DatagramWatch {
    private struct Account {
        var received = 0
        var sent = 0
        /// A message from there opened, or had a right mac1.
        var deserves = false
    }

    private var accounts: [PathAddress: Account] = [:]
    private var isShown: Set<PathAddress> = []
    /// Addresses that only the attacker sends from, and where no end listens.
    private var hostile: Set<PathAddress> = []
    private let mac: MacKey

    init(responder: PublicKey) { self.mac = MacKey(receiver: responder) }

    func isHostile(_ address: PathAddress) { self.hostile.insert(address) }

    func received(_ message: ByteBuffer, from address: PathAddress) {
        if self.isShown.contains(address) { return }
        self.accounts[address, default: Account()].received += message.readableBytes
        if message.messageType == 1, message.readableBytes > 32 {
            var covered = message
            let length = message.readableBytes - 32
            let mac1 = covered.readSlice(length: length).map { self.mac.mac($0.readableBytesSpan) }
            let isRight = covered.readSlice(length: 16).map { mac1?.matches($0.readableBytesSpan) ?? false }
            if isRight ?? false { self.accounts[address]?.deserves = true }
        }
    }

    func took(from address: PathAddress) {
        if !self.isShown.contains(address) { self.accounts[address]?.deserves = true }
    }

    func sent(_ size: Int, to address: PathAddress, _ world: World) throws(SimulationFailure) {
        if self.isShown.contains(address) { return }
        self.accounts[address, default: Account()].sent += size
        guard let account = self.accounts[address] else { return }
        try world.check(account.deserves, "\(size) bytes for \(address), which has shown nothing")
        try world.check(
            account.sent <= 3 * account.received,
            "\(account.sent) bytes for \(account.received) from \(address)"
        )
    }

    /// Called for the path in use, which must be a peer's own address.
    func uses(_ address: PathAddress, _ world: World) throws(SimulationFailure) {
        guard !self.isShown.contains(address) else { return }
        try world.check(!self.hostile.contains(address), "the connection goes to \(address), which is the attacker's")
        self.isShown.insert(address)
        self.accounts[address] = nil
    }
}
