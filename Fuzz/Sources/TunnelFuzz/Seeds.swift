import NIOCore
import Noise
import TunnelSimulator

@testable import InterceptProtocol
@testable import Tunnel

/// What the fuzzer begins with: frames, messages and scripts that the project's own code writes.
enum Seeds {
    static var all: [[UInt8]] {
        let settings: [Setting] = [[], [.initiator], [.datagrams], [.initiator, .datagrams]]
        return settings.flatMap { self.tunnels($0) + self.tunnels($0.union(.stranger)) } + [self.decoders]
    }

    private static func tunnels(_ setting: Setting) -> [[UInt8]] {
        var single = self.frames.map { frame in
            var script = Script(setting)
            script.add(.frames, frame)
            script.add(.time, [25, 30])
            return script.bytes
        }
        var whole = Script(setting)
        for frame in self.frames { whole.add(.framesLater, [1] + frame) }
        whole.add(.application, [0, 1, 2, 8, 9, 3])
        whole.add(.time, [20, 28, 32, 34])
        whole.add(.frames, self.acknowledgement)
        whole.add(.carrier)
        single.append(whole.bytes)
        var outer = Script(setting)
        for which in UInt8(0)..<6 { outer.add(.tampered, [which, 0, 4, 1]) }
        outer.add(.message, [1, 0, 0, 0, 9, 9, 9, 9] + [UInt8](repeating: 7, count: 1_192))
        outer.add(.bytes, [3, 0, 0, 4, 176, 1, 0, 0, 0] + [UInt8](repeating: 7, count: 1_196))
        outer.add(.initiation, [1, 0, 0, 0, 9, 9, 9, 9] + [UInt8](repeating: 7, count: 1_160))
        single.append(outer.bytes)
        var parameters = Script(setting)
        var bytes = ByteBuffer()
        TunnelConfiguration().parameters(ConnectionID(rawValue: 7)).write(into: &bytes)
        parameters.add(.parameters, Array(bytes.readableBytesView))
        parameters.add(.frames, [1])
        parameters.add(.application, [0, 1, 3])
        single.append(parameters.bytes)
        return single
    }

    /// A frame of each kind.
    private static var frames: [[UInt8]] {
        [
            [0, 0, 0, 0], [1], self.acknowledgement, [4, 1, 0, 0], [5, 1, 0],
            [0x0a, 0, 60] + self.start, [0x0f, 1, 0, 12] + self.header, [0x0e, 5, 64, 100, 3, 1, 2, 3],
            [0x10, 0x80, 1, 0, 0], [0x11, 0, 0x80, 1, 0, 0], [0x12, 64, 200], [0x14, 0], [0x15, 0, 0], [0x16, 4],
            [0x1a, 1, 2, 3, 4, 5, 6, 7, 8], [0x1b, 1, 2, 3, 4, 5, 6, 7, 8], [0x1d, 0, 2, 104, 105],
            [0x31, 4, 1, 0, 1, 2], [0x30, 1, 1] + self.header,
        ]
    }

    private static var acknowledgement: [UInt8] { [2, 5, 10, 1, 1, 0, 1] }

    private static var start: [UInt8] {
        var bytes = ByteBuffer()
        ControlMessage.stop.encode(into: &bytes)
        ControlMessage.started(generation: 1).encode(into: &bytes)
        ControlMessage.withdrawn(holder: nil).encode(into: &bytes)
        return Array(bytes.readableBytesView.prefix(60))
    }

    private static var header: [UInt8] {
        var bytes = ByteBuffer()
        ConnectionHeader(
            transport: .tcp,
            servicePort: 8_080,
            client: ClientAddress(ipv4: 0xc000_0201, port: 40_000)
        )
        .write(into: &bytes)
        return Array(bytes.readableBytesView)
    }

    private static var decoders: [UInt8] {
        var bytes = [Setting.decoders.rawValue]
        func add(_ which: UInt8, _ piece: [UInt8]) {
            bytes += [which, UInt8(piece.count >> 8 & 255), UInt8(piece.count & 255)] + piece
        }
        add(0, self.start)
        for text in [
            #"{"type":"start","generation":1,"workspace":"a@b","ports":[{"service":80,"transport":"udp"}],"onUnavailable":"refuse"}"#,
            #"{"type":"failed","code":"busy","reason":"r","holder":"h","since":"s","id":1}"#,
            #"{"type":"probed","id":1,"answers":[{"service":80,"answer":0}]}"#,
            #"{"type":"status","open":1,"total":2,"passed":3,"bytesIn":4,"bytesOut":5}"#,
        ] { add(1, Array(text.utf8)) }
        add(2, [1, 1] + self.header)
        add(3, [0, 2, 1, 2, 0, 0])
        return bytes
    }
}
