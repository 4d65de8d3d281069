import Logging

/// Writes `intercepts.json` off the event loop, since a disk may be slow.
actor InterceptStore {
    private let path: String
    private var written: StoredIntercepts?

    init(path: String) { self.path = path }

    /// If the disk can't be written, only what a daemon needs after a crash is missing.
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
