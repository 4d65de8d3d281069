import Logging

/// Writes `intercepts.json`, away from the event loop: a disk takes its time.
actor InterceptStore {
    private let path: String
    private var written: StoredIntercepts?

    init(path: String) { self.path = path }

    /// A disk that can't be written costs what a crash would need, and nothing else.
    func write(_ stored: StoredIntercepts, log: Logger) {
        guard stored != self.written else { return }
        do {
            try stored.write(to: self.path)
            self.written = stored
        } catch {
            log.error("after a crash nothing would be known of the intercepts: \(error)")
        }
    }
}
