import HostSupport
import NIOCore

/// Returns what a load has left unused of this process's memory to the system, while the process rests.
///
/// That takes some milliseconds after a load, and otherwise less than one. Memory that is returned has to be cleared by the kernel when it
/// is used again, which would be a tenth of the processor's time under load.
final class MemoryUpkeep {
    private let eventLoop: any EventLoop
    private var before = HostSupport.Process.processorTime

    /// † How often to look.
    private static let every = TimeAmount.seconds(10)
    /// † A process that works no longer than this in that time rests.
    private static let restsBelow = Duration.milliseconds(100)

    init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func start() {
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.every) {
            self.look()
            self.start()
        }
    }

    private func look() {
        let now = HostSupport.Process.processorTime
        let rests = now - self.before < Self.restsBelow
        self.before = now
        if rests { HostSupport.Process.returnFreedMemory() }
    }
}
