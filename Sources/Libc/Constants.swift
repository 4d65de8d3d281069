// glibc gives some constants another type than the functions take that they are for; musl and Darwin don't.

/// For socket(2) and `ai_socktype`.
public enum SocketType {
    #if canImport(Glibc)
    public static let stream = CInt(SOCK_STREAM.rawValue)
    public static let datagram = CInt(SOCK_DGRAM.rawValue)
    #else
    public static let stream = CInt(SOCK_STREAM)
    public static let datagram = CInt(SOCK_DGRAM)
    #endif

    /// To be added to the type, so that no program inherits the socket. Darwin has no such flag.
    #if canImport(Glibc)
    public static let closedByExec = CInt(SOCK_CLOEXEC.rawValue)
    #elseif canImport(Musl)
    public static let closedByExec = CInt(SOCK_CLOEXEC)
    #else
    public static let closedByExec: CInt = 0
    #endif
}

/// For getrlimit(2) and setrlimit(2).
public enum ResourceLimit {
    #if canImport(Glibc)
    public static let openFiles = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    public static let coreFile = __rlimit_resource_t(RLIMIT_CORE.rawValue)
    #else
    public static let openFiles = RLIMIT_NOFILE
    public static let coreFile = RLIMIT_CORE
    #endif
}
