import Diversion
import InterceptProtocol
import NIOCore

/// Paces changes of the kernel's rules: each is one or two transactions that block the event loop.
///
/// The first few are made at once. After that, all requests within 100 ms† become one change to the latest wanted state,
/// and each of them is answered with its result.
struct RuleChanges {
    /// The TCP ports that no workspace intercepted before.
    typealias Change = Result<Set<UInt16>, DiversionError>

    /// Shared by all workspaces. †
    var pace = Allowance(atOnce: 4, interval: .milliseconds(100))
    var next: Scheduled<Void>?
    /// The requests to answer with the next change, oldest first.
    var waiting: [(Change) -> Void] = []
}
