import NIOPosix

/// Waits for the disk and for sockets, off the threads that everything async shares.
enum Blocking {
    /// † A wait for the supervisor takes one for seconds; the files of others go on beside it.
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
