import Diversion
import InterceptProtocol
import NIOCore

/// The kernel's rules follow what is wanted last: each change is a transaction or two, for which the loop waits.
///
/// The first few are made at once. What is wanted within 100 ms† from then on is one change, however often it has changed
/// meanwhile, and what was asked for in between is answered with it.
struct RuleChanges {
    /// The TCP ports that are diverted newly.
    typealias Change = Result<Set<UInt16>, DiversionError>

    /// Of all workspaces together. †
    var pace = Allowance(atOnce: 4, interval: .milliseconds(100))
    var next: Scheduled<Void>?
    /// In the order in which they have asked.
    var waiting: [(Change) -> Void] = []
}
