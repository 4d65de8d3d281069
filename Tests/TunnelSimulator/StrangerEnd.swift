import NIOCore
import Noise
import Tunnel

/// An end whose key isn't accepted, on a carrier of its own: it sends a script, and listens. It may be answered only if it
/// sends a genuine initiation that the responder hasn't seen.
final class StrangerEnd: End {
    private var script: [ByteBuffer]
    private var nextWriteAt: Int64
    private(set) var bytesHeard = 0

    init(_ name: String, saying script: [ByteBuffer], world: World) {
        self.script = script
        self.nextWriteAt = world.now
        super.init(name, role: .initiator, maxMessageSize: 16_416, world: world)
    }

    override func receive(_ bytes: ByteBuffer, on attachment: Attachment) throws(SimulationFailure) {
        self.bytesHeard += bytes.readableBytes
    }

    override var nextWake: Int64? {
        !self.script.isEmpty && self.attachments.contains { $0.isOpen } ? max(self.nextWriteAt, self.world.now) : nil
    }

    override func wake() throws(SimulationFailure) {
        guard let attachment = self.attachments.first(where: { $0.isOpen }), self.nextWriteAt <= self.world.now,
            !self.script.isEmpty
        else { return }
        attachment.output.write(self.script.removeFirst(), at: self.world.now)
        self.nextWriteAt = self.world.now + self.random.between(0...1_000_000_000)
    }
}
