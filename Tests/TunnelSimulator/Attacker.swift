import NIOCore
import Tunnel

/// Who sits on the path: keeps what passed by, and hands it in again, changed or not.
final class Attacker {
    func precede(_ message: ByteBuffer, at end: End, on attachment: Attachment) throws(SimulationFailure) {}
    func saw(_ message: ByteBuffer, by end: End) {}
}
