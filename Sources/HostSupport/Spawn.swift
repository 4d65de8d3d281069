import CSpawn
import Libc

/// Starts a program that may outlive this one. It inherits only the descriptors named here.
public struct Spawn: Sendable {
    /// A path.
    public var executable: String
    /// Without the program's name.
    public var arguments: [String]
    public var environment: [String: String]
    public var workingDirectory: String?
    /// The child's descriptors 0, 1, 2, 3 …, in this order; nil means /dev/null.
    public var descriptors: [CInt?] = [nil, nil, nil]
    /// Start a new session, and so a new process group: the end of a shell doesn't affect it, and the group can be signalled.
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

    /// The path of this process's program.
    public static var ownExecutable: String {
        var path = [CChar](repeating: 0, count: 4_097)
        let count = readlink("/proc/self/exe", &path, 4_096)
        guard count > 0 else { return CommandLine.arguments.first ?? "" }
        return String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Finds a program by name in the folders of PATH, as a shell does. A name with a slash is taken as a path.
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

    /// Returns the process number of the new child, which the caller must reap.
    public func start() throws(HostError) -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // Copies above the range of the child's descriptors, so that placing one doesn't overwrite another.
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
        // The child gets the default signal mask and dispositions, not this process's.
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
        // The array is never empty, as it ends with nil.
        buffer.baseAddress.map(body) ?? body(UnsafeMutablePointer.allocate(capacity: 1))
    }
}

/// A pipe whose ends no started program inherits, except those that `Spawn` is told to pass on.
package struct Pipe {
    package let reader: CInt
    package let writer: CInt

    package init() throws(HostError) {
        var ends: [CInt] = [-1, -1]
        guard pipe(&ends) == 0 else { throw HostError("a pipe can't be made", code: errno) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        (self.reader, self.writer) = (ends[0], ends[1])
    }

    package func makeNonblocking() {
        for end in [self.reader, self.writer] { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
    }
}
