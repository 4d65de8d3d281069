import CDatagrams
import Libc
import NIOCore
import NIOPosix
import Tunnel

/// Reports when this machine's addresses have changed, or it has slept: existing carriers may no longer work.
final class NetworkWatch {
    private let eventLoop: any EventLoop
    private let onChange: () -> Void
    private var channel: (any Channel)?
    private var addresses = NetworkWatch.addressesInUse()
    private var look: Scheduled<Void>?
    private var tick: Scheduled<Void>?
    private var sleep = SleepWatch(boot: Clock.now(), monotonic: Clock.monotonic())
    private var isStopped = false

    /// One change comes as several messages. †
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
        // Without netlink, a change shows only as missing answers.
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

    /// SwiftNIO closes a channel whose socket reports an error, as a netlink socket does that overflowed. Then there were
    /// many changes, and a new socket is opened.
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
            // Without any address, nothing can be done until one comes.
            guard now != self.addresses else { return }
            self.addresses = now
            if !now.isEmpty { self.onChange() }
        }
    }

    /// The addresses of interfaces that are up, except loopback and link-local ones, and the source addresses of the default
    /// routes.
    private static func addressesInUse() -> Set<String> {
        var addresses: Set<String> = []
        for device in (try? System.enumerateDevices()) ?? [] {
            guard let address = device.address, let text = address.ipAddress else { continue }
            if text.hasPrefix("127.") || text == "::1" || text.hasPrefix("fe80:") { continue }
            addresses.insert("\(device.name) \(text)")
        }
        // A route may come a while after its address, and until then nothing can be sent.
        for anywhere in ["192.0.2.1", "2001:db8::1"] {
            if let source = Self.source(towards: anywhere) { addresses.insert("towards \(anywhere): \(source)") }
        }
        return addresses
    }

    /// The source address that the kernel would use; nil: it has no route. Nothing is sent. The destinations are reserved for
    /// documentation (RFC 5737, RFC 3849), so the route to them is the default route.
    private static func source(towards place: String) -> String? {
        guard let there = try? SocketAddress(ipAddress: place, port: 9) else { return nil }
        let family = there.protocol == .inet6 ? AF_INET6 : AF_INET
        let descriptor = socket(family, SocketType.datagram | SocketType.closedByExec, 0)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        guard there.withSockAddr({ connect(descriptor, $0, socklen_t($1)) }) == 0 else { return nil }
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
        }
        guard result == 0 else { return nil }
        // Only the address, since the port differs each time.
        return withUnsafeBytes(of: &storage) { bytes in
            let family = there.protocol == .inet6 ? 8..<24 : 4..<8
            return bytes[family].map { String($0, radix: 16) }.joined(separator: ".")
        }
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private weak var watch: NetworkWatch?

        init(watch: NetworkWatch) { self.watch = watch }

        /// The content of the messages doesn't matter, since the addresses are compared.
        func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.watch?.somethingChanged() }

        /// An error closes the channel, for one when the socket overflowed.
        func errorCaught(context: ChannelHandlerContext, error: any Error) {}

        func channelInactive(context: ChannelHandlerContext) { self.watch?.channelClosed() }
    }
}

/// Detects that the machine has slept: CLOCK_BOOTTIME runs on meanwhile, CLOCK_MONOTONIC doesn't.
struct SleepWatch {
    private var difference: TimeAmount

    /// Shorter sleeps do no lasting harm. †
    static let atLeast = TimeAmount.seconds(2)

    init(boot: Instant, monotonic: Instant) { self.difference = boot - monotonic }

    mutating func hasSlept(boot: Instant, monotonic: Instant) -> Bool {
        let now = boot - monotonic
        defer { self.difference = now }
        return now - self.difference >= Self.atLeast
    }
}
