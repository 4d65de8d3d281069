/// The result of a handshake: `Split()` of Noise §5.2, with the directions as this side sees them.
public struct TransportKeys: ~Copyable {
    public var sending: CipherState
    public var receiving: CipherState
    public let handshakeHash: HandshakeHash

    init(sending: consuming CipherState, receiving: consuming CipherState, handshakeHash: HandshakeHash) {
        self.sending = sending
        self.receiving = receiving
        self.handshakeHash = handshakeHash
    }

    /// Hands over the two keys: another module can't move them out of the struct itself, and a tuple can't hold `~Copyable`
    /// values.
    public consuming func split<R: ~Copyable, E: Error>(
        _ body: (_ sending: consuming CipherState, _ receiving: consuming CipherState) throws(E) -> R
    ) throws(E) -> R {
        try body(sending, receiving)
    }
}
