/// What a handshake is for: `Split()` of Noise §5.2, with the directions as seen from here.
public struct TransportKeys: ~Copyable {
    public var sending: CipherState
    public var receiving: CipherState
    public let handshakeHash: HandshakeHash

    init(sending: consuming CipherState, receiving: consuming CipherState, handshakeHash: HandshakeHash) {
        self.sending = sending
        self.receiving = receiving
        self.handshakeHash = handshakeHash
    }

    /// Takes the two apart: another module can't move them out of the struct by itself, and a tuple holds nothing that
    /// is `~Copyable`.
    public consuming func split<R: ~Copyable, E: Error>(
        _ body: (_ sending: consuming CipherState, _ receiving: consuming CipherState) throws(E) -> R
    ) throws(E) -> R {
        try body(sending, receiving)
    }
}
