import CSpawn

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Starts a program that may outlive this one. Of this process's descriptors it gets those that are named, and no other.
public struct Spawn: Sendable {
    /// A path.
    public var executable: String
    /// Without the program's own name.
    public var arguments: [String]
    public var environment: [String: String]
    public var workingDirectory: String?
    /// What the child has as 0, 1, 2, 3 …, in this order; nil is /dev/null.
    public var descriptors: [CInt?] = [nil, nil, nil]
    /// A session, and so a process group, of its own: a shell's end doesn't reach it, and the group can be told to end.
    public var makesSession = true

    public init(_ executable: String, _ arguments: [String], environment: [String: String] = Spawn.ownEnvironment) {
        self.executable = executable
        self.arguments = arguments
        self.environment = environment
    }

    public static var ownEnvironment: [String: String] {
        var result: [String: String] = [:]
        var next = environ
        while let entry = next.pointee {
            if let variable = Assignment(String(cString: entry)) { result[variable.name] = variable.value }
            next += 1
        }
        return result
    }

    /// The program of this process.
    public static var ownExecutable: String {
        var path = [CChar](repeating: 0, count: 4_097)
        let count = readlink("/proc/self/exe", &path, 4_096)
        guard count > 0 else { return CommandLine.arguments.first ?? "" }
        return String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// A program by its name: in the folders of PATH, as a shell finds it. A name with a slash is a path already.
    public static func find(_ name: String, path: String?, in folder: String = ".") -> String? {
        if name.contains("/") {
            let whole = name.hasPrefix("/") ? name : "\(folder)/\(name)"
            return access(whole, X_OK) == 0 ? whole : nil
        }
        for place in (path ?? "/usr/local/bin:/usr/bin:/bin").split(separator: ":", omittingEmptySubsequences: false) {
            let base = place.isEmpty ? folder : place.hasPrefix("/") ? String(place) : "\(folder)/\(place)"
            let whole = "\(base)/\(name)"
            var status = stat()
            if access(whole, X_OK) == 0, stat(whole, &status) == 0, status.st_mode & S_IFMT == S_IFREG { return whole }
        }
        return nil
    }

    /// The child's number. It is this process's child: somebody must wait for it.
    public func start() throws(HostError) -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // Above all that is placed below, so that placing one doesn't take another's number.
        var copies: [CInt] = []
        defer { for copy in copies { close(copy) } }
        for (number, source) in self.descriptors.enumerated() {
            let number = CInt(number)
            guard let source else {
                posix_spawn_file_actions_addopen(&actions, number, "/dev/null", O_RDWR, 0)
                continue
            }
            let copy = fcntl(source, F_DUPFD_CLOEXEC, CInt(self.descriptors.count) + 16)
            guard copy >= 0 else { throw .last(self.executable, "can't be started") }
            copies.append(copy)
            posix_spawn_file_actions_adddup2(&actions, copy, number)
        }
        kl_spawn_add_closefrom(&actions, CInt(self.descriptors.count))
        if let workingDirectory { kl_spawn_add_chdir(&actions, workingDirectory) }

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // What this process holds back or ignores, the child shall have as usual.
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigdefault(&attributes, &all)
        var flags = Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETSIGDEF)
        if self.makesSession { flags |= kl_spawn_setsid() }
        posix_spawnattr_setflags(&attributes, flags)

        var pid = pid_t()
        let arguments = [self.executable] + self.arguments
        let environment = self.environment.map { "\($0.key)=\($0.value)" }
        let result = withCStrings(arguments) { arguments in
            withCStrings(environment) { posix_spawn(&pid, self.executable, &actions, &attributes, arguments, $0) }
        }
        guard result == 0 else { throw HostError("\(self.executable) can't be started", code: result) }
        return pid
    }
}

private func withCStrings<Result>(
    _ strings: [String],
    _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
    var pointers = strings.map { strdup($0) } + [nil]
    defer { for pointer in pointers { free(pointer) } }
    return pointers.withUnsafeMutableBufferPointer { buffer in
        // Never empty: it ends with nil.
        buffer.baseAddress.map(body) ?? body(UnsafeMutablePointer.allocate(capacity: 1))
    }
}
