import HostSupport
import NIOCore
import NIOPosix

/// Finds out when a service listens on its ports: by connecting to 127.0.0.1, then to ::1; in another network namespace,
/// from the kernel's tables. Looks often at first, since most services are soon ready, then less often.
final class PortProbe {
    private let eventLoop: any EventLoop
    private var lacking: [UInt16]
    private let listens: ((UInt16) -> Bool)?
    private let stranger: (UInt16) -> String?
    private let onChange: (_ lacking: [UInt16], _ stranger: String?) -> Void
    /// The program that has the first of the lacking ports in the service's place.
    private var found: String?
    private let since = NIODeadline.now()

    /// - Parameters:
    ///   - listens: whether a process listens on a port that can't be reached from here; nil: find out by connecting.
    ///   - stranger: the program that listens on a port in the service's place; nil: it is the service.
    ///   - onChange: called with the ports on which the service doesn't listen yet, until there are none, and with the program
    ///     that has the first of them in the service's place.
    init(
        ports: [UInt16],
        on eventLoop: any EventLoop,
        listens: ((UInt16) -> Bool)? = nil,
        stranger: @escaping (UInt16) -> String?,
        onChange: @escaping (_ lacking: [UInt16], _ stranger: String?) -> Void
    ) {
        var known: Set<UInt16> = []
        self.lacking = ports.filter { known.insert($0).inserted }
        self.eventLoop = eventLoop
        self.listens = listens
        self.stranger = stranger
        self.onChange = onChange
    }

    /// Goes on until the service listens on all ports, or until this object is released.
    func start() { self.look() }

    /// Milliseconds until the next look.
    static func pause(after elapsed: TimeAmount) -> Int64 {
        switch elapsed.nanoseconds / 1_000_000_000 {
        case ..<3: 50
        case ..<15: 200
        default: 1_000
        }
    }

    private func look() {
        self.onChange(self.lacking, self.found)
        guard let port = self.lacking.first else { return }
        self.look(at: port) { [weak self] isListening in
            guard let self else { return }
            self.found = isListening ? self.stranger(port) : nil
            if isListening, self.found == nil {
                self.lacking.removeFirst()
                return self.look()
            }
            // To find a port's owner takes longer than to find that no process listens, so look less often.
            let pause = self.found == nil ? Self.pause(after: NIODeadline.now() - self.since) : 1_000
            self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(pause)) { [weak self] in self?.look() }
        }
    }

    private func look(at port: UInt16, then: @escaping (Bool) -> Void) {
        if let listens = self.listens { return then(listens(port)) }
        self.connect(to: ["127.0.0.1", "::1"], port: port, then: then)
    }

    private func connect(to hosts: [String], port: UInt16, then: @escaping (Bool) -> Void) {
        guard let host = hosts.first, let address = try? SocketAddress(ipAddress: host, port: Int(port)) else {
            return then(false)
        }
        ClientBootstrap(group: self.eventLoop)
            .connectTimeout(.seconds(1))
            .connect(to: address)
            .refusingItself()
            .assumeIsolated()
            .whenComplete { [weak self] result in
                switch result {
                case .success(let channel):
                    channel.close(promise: nil)
                    then(true)
                case .failure: self?.connect(to: Array(hosts.dropFirst()), port: port, then: then)
                }
            }
    }
}
