import NIOCore
import NIOPosix

/// Finds out when a service listens on its ports: by connecting, on 127.0.0.1, then on ::1. Often at first, since most are
/// there soon, then now and then.
final class PortProbe {
    private let eventLoop: any EventLoop
    private var lacking: [UInt16]
    private let onChange: ([UInt16]) -> Void
    private let since = NIODeadline.now()

    /// - Parameter onChange: called with the ports on which nobody listens yet, until there is none.
    init(ports: [UInt16], on eventLoop: any EventLoop, onChange: @escaping ([UInt16]) -> Void) {
        var known: Set<UInt16> = []
        self.lacking = ports.filter { known.insert($0).inserted }
        self.eventLoop = eventLoop
        self.onChange = onChange
    }

    /// It goes on until all listen, or until nobody holds this.
    func start() { self.look() }

    /// Milliseconds from one look to the next.
    static func pause(after elapsed: TimeAmount) -> Int64 {
        switch elapsed.nanoseconds / 1_000_000_000 {
        case ..<3: 50
        case ..<15: 200
        default: 1_000
        }
    }

    private func look() {
        self.onChange(self.lacking)
        guard let port = self.lacking.first else { return }
        self.connect(to: ["127.0.0.1", "::1"], port: port) { [weak self] isListening in
            guard let self else { return }
            if isListening {
                self.lacking.removeFirst()
                return self.look()
            }
            let pause = Self.pause(after: NIODeadline.now() - self.since)
            self.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(pause)) { [weak self] in self?.look() }
        }
    }

    private func connect(to hosts: [String], port: UInt16, then: @escaping (Bool) -> Void) {
        guard let host = hosts.first, let address = try? SocketAddress(ipAddress: host, port: Int(port)) else {
            return then(false)
        }
        ClientBootstrap(group: self.eventLoop)
            .connectTimeout(.seconds(1))
            .connect(to: address)
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
