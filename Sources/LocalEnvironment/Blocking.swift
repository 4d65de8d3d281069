import NIOPosix

/// Runs work that waits for the disk or for sockets, off the threads that all `async` functions share.
enum Blocking {
    /// † One thread may wait for the supervisor for seconds; file accesses go on in the others.
    private static let threads = 4

    private static let pool: NIOThreadPool = {
        let pool = NIOThreadPool(numberOfThreads: Self.threads)
        pool.start()
        return pool
    }()

    static func run<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
        try await Self.pool.runIfActive(body)
    }
}
