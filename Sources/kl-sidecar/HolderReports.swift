import InterceptModel
import SidecarAgent
import SidecarInterface

extension SidecarReport {
    mutating func tell(_ holders: [SidecarAgent.Holder]) {
        self.intercept = holders.first { $0.isIntercept }?.intercept
        self.holders = holders.map(\.reported)
    }
}

extension DivertingNotice {
    init(_ holders: [SidecarAgent.Holder]) {
        let first = holders.first { $0.isIntercept && $0.isServed } ?? holders.first { $0.isIntercept }
        self.init(
            divertingTo: first.flatMap { $0.isServed ? $0.key.base64 : nil },
            open: first?.open ?? 0,
            total: first?.total ?? 0,
            passed: first?.passed ?? 0
        )
        self.holders = holders.map(\.reported)
    }
}

extension SidecarAgent.Holder {
    /// Earlier versions of kl know only of an intercept that has begun.
    fileprivate var isIntercept: Bool { self.kind == .intercept && self.generation != nil }

    fileprivate var intercept: SidecarReport.Intercept {
        var report = SidecarReport.Intercept(diverting: self.isServed)
        report.key = self.key.base64
        report.workspace = self.workspace
        report.since = self.since.rfc3339
        report.generation = self.generation
        report.ports = self.ports.filter { $0.transport == .tcp }.map(\.number)
        report.udpPorts = self.ports.filter { $0.transport == .udp }.map(\.number)
        report.open = self.open
        report.total = self.total
        report.passed = self.passed
        return report
    }

    fileprivate var reported: SidecarReport.Holder {
        var report = SidecarReport.Holder(
            key: self.key.base64,
            workspace: self.workspace,
            kind: self.kind,
            ports: self.ports,
            since: self.since.rfc3339
        )
        report.lastSeen = self.lastSeen?.rfc3339
        report.isServed = self.isServed
        report.open = self.open
        report.total = self.total
        report.passed = self.passed
        report.behind = self.behind
        return report
    }

    /// The part of the report whose changes are told at once.
    var withoutCounts: Self {
        var holder = self
        (holder.open, holder.total, holder.passed, holder.behind) = (0, 0, 0, 0)
        return holder
    }
}

extension [SidecarAgent.Holder] {
    /// Whether nothing has changed but the time when connected workspaces were last heard of, which always advances.
    func isLike(_ others: Self?) -> Bool {
        func timeless(_ holders: Self) -> Self {
            holders.map { holder in
                var holder = holder
                if holder.lastSeen != nil { holder.lastSeen = UTCTime(seconds: 0) }
                return holder
            }
        }
        return others.map { timeless($0) == timeless(self) } ?? false
    }
}
