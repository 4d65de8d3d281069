import Libc
public import NIOCore

/// Notices when a network namespace is abandoned: a container's interfaces go away with it, while a sidecar that shares its
/// namespace stays there alone.
///
/// It polls. The kernel would notify by netlink, but a second of delay costs nothing here: no other machine can reach the
/// namespace any more.
public final class LinkWatch {
    private let eventLoop: any EventLoop
    private let links: () -> Int?
    private var task: Ticker?
    private var hadLinks = false
    private var missing = 0

    /// The polling interval. †
    private static let every = TimeAmount.milliseconds(500)
    /// How many polls in a row must find no interface: a container that changes networks has none for a moment. †
    private static let missingAtMost = 3

    public convenience init(eventLoop: any EventLoop) { self.init(eventLoop: eventLoop, links: Self.linksThatAreUp) }

    init(eventLoop: any EventLoop, links: @escaping () -> Int?) {
        self.eventLoop = eventLoop
        self.links = links
    }

    /// Calls back once, after the last interface except the loopback has gone. A namespace that never had one doesn't count.
    public func start(onLastLinkGone: @escaping () -> Void) {
        self.task = Ticker(self.eventLoop, every: Self.every) { [weak self] in
            guard let self else { return false }
            guard let count = self.links() else { return true }
            guard count == 0 else {
                self.hadLinks = true
                self.missing = 0
                return true
            }
            self.missing += 1
            guard self.hadLinks, self.missing >= Self.missingAtMost else { return true }
            onLastLinkGone()
            return false
        }
        // The interfaces at the start, so that a namespace abandoned before the first poll is noticed.
        self.hadLinks = (self.links() ?? 0) > 0
    }

    public func stop() { self.task?.cancel() }

    /// The number of interfaces, except the loopback, that are up and have an IP address; nil if it can't be told now.
    private static func linksThatAreUp() -> Int? {
        var first: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&first) == 0 else { return nil }
        defer { freeifaddrs(first) }
        var names: Set<String> = []
        for entry in sequence(first: first, next: { $0?.pointee.ifa_next }) {
            guard let interface = entry?.pointee, let address = interface.ifa_addr else { continue }
            let family = CInt(address.pointee.sa_family)
            let flags = CInt(bitPattern: interface.ifa_flags)
            guard family == AF_INET || family == AF_INET6, flags & CInt(IFF_UP) != 0,
                flags & CInt(IFF_LOOPBACK) == 0
            else { continue }
            names.insert(String(cString: interface.ifa_name))
        }
        return names.count
    }
}
