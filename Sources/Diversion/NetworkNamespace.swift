#if os(Linux)
import Libc
import CNetlink
#endif

/// A network namespace, as given with `--netns`.
public enum NetworkNamespace: Hashable, Sendable {
    /// A file of nsfs: `/proc/N/ns/net`, or one that `ip netns` keeps below `/run/netns`.
    case path(String)
    /// The namespace of a process.
    case process(Int32)

    /// - Parameter flag: `PATH` or `pid:N`.
    public init(flag: String) throws(DiversionError) {
        guard flag.hasPrefix("pid:") else {
            guard !flag.isEmpty, !flag.contains("\0") else {
                throw DiversionError("'' names no network namespace. Write pid:N, or a path such as /run/netns/NAME.")
            }
            self = .path(flag)
            return
        }
        guard let number = Int32(flag.dropFirst("pid:".count)), number > 0 else {
            throw DiversionError("'\(flag)' isn't a process. Write pid:N, as ps shows it.")
        }
        self = .process(number)
    }

    var path: String {
        switch self {
        case .path(let path): path
        case .process(let number): "/proc/\(number)/ns/net"
        }
    }

    /// Moves the calling thread to the namespace, and with it all threads that it creates afterwards.
    ///
    /// setns(2) moves one thread. A running event loop would stay behind, so a second thread is an error.
    public func enter() throws(DiversionError) {
        #if os(Linux)
        let threads = Self.threadCount
        guard threads == 1 else {
            throw DiversionError(
                "\(self) can't be entered: the process has \(threads) threads already, which would stay."
            )
        }
        let descriptor = open(self.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw self.unreachable(errno) }
        defer { close(descriptor) }
        guard kl_is_network_namespace(descriptor) != 0 else {
            throw DiversionError(
                "\(self) is no network namespace. Give pid:N, /proc/N/ns/net or a file below /run/netns."
            )
        }
        guard kl_enter_network_namespace(descriptor) == 0 else {
            let code = errno
            guard code == EPERM else {
                throw DiversionError("\(self) can't be entered: \(Self.text(code)).")
            }
            throw DiversionError("\(self) can't be entered: that needs CAP_SYS_ADMIN. Start the sidecar as root.")
        }
        #else
        throw DiversionError("\(self) can't be entered: only Linux has network namespaces.")
        #endif
    }

    private func unreachable(_ code: CInt) -> DiversionError {
        switch (self, code) {
        case (.process(let number), ENOENT):
            DiversionError("Process \(number) doesn't run, so it has no network namespace. Check --netns.")
        case (.process(let number), EACCES), (.process(let number), EPERM):
            DiversionError("The network namespace of process \(number) is another user's. Start the sidecar as root.")
        default:
            DiversionError("The network namespace \(self.path) can't be opened: \(Self.text(code)). Check --netns.")
        }
    }

    #if os(Linux)
    private static var threadCount: Int {
        guard let folder = opendir("/proc/self/task") else { return 0 }
        defer { closedir(folder) }
        var count = 0
        while let entry = readdir(folder) {
            // A thread's folder is named by its number; other entries begin with a dot.
            if entry.pointee.d_name.0 != CChar(UInt8(ascii: ".")) { count += 1 }
        }
        return count
    }
    #endif

    private static func text(_ code: CInt) -> String { String(cString: strerror(code)) }
}

extension NetworkNamespace: CustomStringConvertible {
    public var description: String {
        switch self {
        case .path(let path): "'\(path)'"
        case .process(let number): "the network namespace of process \(number)"
        }
    }
}
