import CDatagrams
import NIOCore
import NIOPosix
import Tunnel

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Tells when this machine has other addresses than before, or has slept: what was sent the old way may lead nowhere.
final class NetworkWatch {
    private let eventLoop: any EventLoop
    private let onChange: () -> Void
    private var channel: (any Channel)?
    private var addresses = NetworkWatch.addressesInUse()
    private var look: Scheduled<Void>?
    private var tick: Scheduled<Void>?
    private var sleep = SleepWatch(boot: Clock.now(), monotonic: Clock.monotonic())
    private var isStopped = false

    /// A change comes as several messages. †
    private static let settling = TimeAmount.milliseconds(100)
    private static let every = TimeAmount.seconds(1)

    init(eventLoop: any EventLoop, onChange: @escaping () -> Void) {
        self.eventLoop = eventLoop
        self.onChange = onChange
    }

    func start() {
        self.watchSleep()
        self.watchAddresses()
    }

    private func watchAddresses() {
        let descriptor = kl_watch_addresses()
        // Without netlink a change is noticed by what gets no answer any more.
        guard descriptor >= 0 else { return }
        let bound = NIOLoopBound(self, eventLoop: self.eventLoop)
        NIOPipeBootstrap(group: self.eventLoop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Handler(watch: bound.value))
                }
            }
            .takingOwnershipOfDescriptor(input: descriptor)
            .assumeIsolated()
            .whenComplete { [weak self] result in
                switch result {
                case .success(let channel):
                    if let self, !self.isStopped { self.channel = channel } else { channel.close(promise: nil) }
                case .failure: close(descriptor)
                }
            }
    }

    func stop() {
        self.isStopped = true
        self.look?.cancel()
        self.tick?.cancel()
        self.channel?.close(promise: nil)
        self.channel = nil
    }

    private func watchSleep() {
        self.tick = self.eventLoop.assumeIsolated().scheduleTask(in: Self.every) { [weak self] in
            guard let self, !self.isStopped else { return }
            if self.sleep.hasSlept(boot: Clock.now(), monotonic: Clock.monotonic()) { self.onChange() }
            self.watchSleep()
        }
    }

    /// SwiftNIO closes a channel whose socket reports an error, and a netlink socket that was not read in time does: then
    /// there was much to read, and another takes its place.
    fileprivate func channelClosed() {
        self.channel = nil
        guard !self.isStopped else { return }
        self.somethingChanged()
        self.eventLoop.assumeIsolated().scheduleTask(in: Self.settling) { [weak self] in
            if let self, !self.isStopped { self.watchAddresses() }
        }
    }

    fileprivate func somethingChanged() {
        guard self.look == nil, !self.isStopped else { return }
        self.look = self.eventLoop.assumeIsolated().scheduleTask(in: Self.settling) { [weak self] in
            guard let self else { return }
            self.look = nil
            let now = Self.addressesInUse()
            // With none left there is nothing to be done until one comes.
            guard now != self.addresses else { return }
            self.addresses = now
            if !now.isEmpty { self.onChange() }
        }
    }

    /// The addresses of interfaces that are up, but for the loopback's and those of a link alone.
    private static func addressesInUse() -> Set<String> {
        var addresses: Set<String> = []
        for device in (try? System.enumerateDevices()) ?? [] {
            guard let address = device.address, let text = address.ipAddress else { continue }
            if text.hasPrefix("127.") || text == "::1" || text.hasPrefix("fe80:") { continue }
            addresses.insert("\(device.name) \(text)")
        }
        return addresses
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private weak var watch: NetworkWatch?

        init(watch: NetworkWatch) { self.watch = watch }

        /// What the messages say doesn't matter: the addresses are looked at.
        func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.watch?.somethingChanged() }

        /// More messages than the socket holds, for one: the channel closes.
        func errorCaught(context: ChannelHandlerContext, error: any Error) {}

        func channelInactive(context: ChannelHandlerContext) { self.watch?.channelClosed() }
    }
}

/// Finds out that a machine has slept: its boot clock goes on, its monotonic clock doesn't.
struct SleepWatch {
    private var difference: TimeAmount

    /// Shorter naps cost nothing that wouldn't heal by itself. †
    static let atLeast = TimeAmount.seconds(2)

    init(boot: Instant, monotonic: Instant) { self.difference = boot - monotonic }

    mutating func hasSlept(boot: Instant, monotonic: Instant) -> Bool {
        let now = boot - monotonic
        defer { self.difference = now }
        return now - self.difference >= Self.atLeast
    }
}
