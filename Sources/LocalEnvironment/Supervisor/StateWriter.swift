import Environments
import Logging

/// Writes `state.json`, and keeps the failure if that doesn't work: a full disk doesn't end services.
struct StateWriter {
    private let folder: StateFolder
    private let log: Logger
    /// What is wrong, as a clause; nil while it works.
    private(set) var problem: String?

    init(folder: StateFolder, log: Logger) {
        self.folder = folder
        self.log = log
    }

    mutating func write(_ state: EnvironmentState) {
        var state = state
        // If this write succeeds, the previous problem no longer exists.
        if state.problem == self.problem { state.problem = nil }
        do throws(EnvironmentError) {
            try state.write(to: self.folder)
            if self.problem != nil { self.log.notice("the state can be written again") }
            self.problem = nil
        } catch {
            let problem = "the state isn't up to date: \(error)"
            if self.problem != problem { self.log.error("\(problem)") }
            self.problem = problem
        }
    }
}
