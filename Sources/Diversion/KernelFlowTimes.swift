import Libc
public import NIOCore

/// How long the kernel remembers UDP flows in this network namespace.
public enum KernelFlowTimes {
    /// For answered flows; nil if the kernel tracks none here, or doesn't tell.
    public static var answered: TimeAmount? { Self.time("nf_conntrack_udp_timeout_stream") }

    /// For the others, and for those whose packets have all come within two seconds; nil as above.
    public static var brief: TimeAmount? { Self.time("nf_conntrack_udp_timeout") }

    private static func time(_ name: String) -> TimeAmount? {
        let descriptor = open("/proc/sys/net/netfilter/" + name, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 32)
        let count = read(descriptor, &bytes, bytes.count)
        guard count > 0 else { return nil }
        return Self.seconds(String(decoding: bytes[..<count], as: UTF8.self))
    }

    /// Parses the file's content.
    static func seconds(_ text: String) -> TimeAmount? {
        let digits = text.prefix { !$0.isWhitespace }
        guard let seconds = Int64(digits), (1...Int64(Int32.max)).contains(seconds) else { return nil }
        return .seconds(seconds)
    }
}
