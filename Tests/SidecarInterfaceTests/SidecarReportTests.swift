import InterceptModel
import SidecarInterface
import Testing

@Suite struct SidecarReportTests {
    private static let short =
        #"{"ready":true,"publicKey":"a+/=","tcp":"127.0.0.1:51820","listen":{"80":"10.0.0.2:80"}}"#
    private static let long =
        #"{"ready":true,"publicKey":"a+/=","tcp":"[::1]:1","udp":"[::1]:2","listen":{"53":"a:1","53/udp":"a:2","8080":"b:3"},"#
        + #""metrics":"127.0.0.1:9","originalSees":"client","#
        + #""intercept":{"diverting":true,"key":"k","workspace":"ada@thinkpad","since":"s","#
        + #""generation":3,"ports":[53,8080],"udpPorts":[53],"open":1,"total":4,"passed":2},"#
        + #""holders":[{"key":"k","workspace":"ada@thinkpad","kind":"mirror","ports":["80","53/udp"],"since":"s","#
        + #""lastSeen":"t","isServed":true,"open":1,"total":2,"passed":3,"behind":4}]}"#

    @Test func `as it is written`() throws {
        var report = SidecarReport(publicKey: "a+/=")
        report.tcp = "127.0.0.1:51820"
        report.listen = [ServicePort(80): "10.0.0.2:80"]
        #expect(report.line == Self.short)
        report.tcp = "[::1]:1"
        report.udp = "[::1]:2"
        report.listen = [ServicePort(8_080): "b:3", ServicePort(53, .udp): "a:2", ServicePort(53): "a:1"]
        report.metrics = "127.0.0.1:9"
        report.originalSees = .clients
        var intercept = SidecarReport.Intercept(diverting: true)
        intercept.key = "k"
        intercept.workspace = "ada@thinkpad"
        intercept.since = "s"
        intercept.generation = 3
        intercept.ports = [53, 8_080]
        intercept.udpPorts = [53]
        intercept.open = 1
        intercept.total = 4
        intercept.passed = 2
        report.intercept = intercept
        let ports: [ServicePort] = [.init(80), .init(53, .udp)]
        var holder = SidecarReport.Holder(key: "k", workspace: "ada@thinkpad", kind: .mirror, ports: ports, since: "s")
        holder.lastSeen = "t"
        holder.isServed = true
        holder.open = 1
        holder.total = 2
        holder.passed = 3
        holder.behind = 4
        report.holders = [holder]
        #expect(report.line == Self.long)
        #expect(SidecarReport(line: Self.long) == report)
    }

    @Test(arguments: [Self.short, Self.long])
    func `what was written is read`(line: String) { #expect(SidecarReport(line: line)?.line == line) }

    @Test(arguments: [
        (#""originalSees":"client""#, SeenAddress.clients),
        (#""originalSees":"client","originalSeesReason":"x""#, .clients),
        (#""originalSees":"sidecar""#, .sidecars(because: nil)),
        (#""originalSees":"sidecar","originalSeesReason":"so it is""#, .sidecars(because: "so it is")),
        (#""originalSees":"nobody""#, nil), (#""later":1"#, nil),
    ])
    func `what the original sees`(words: String, seen: SeenAddress?) throws {
        let report = try #require(SidecarReport(line: Self.short.dropLast() + ",\(words)}"))
        #expect(report.originalSees == seen)
        #expect(SidecarReport(line: report.line) == report)
        var notice = DivertingNotice(divertingTo: nil, open: 0, total: 0, passed: 0)
        notice.originalSees = seen
        #expect(DivertingNotice(Dictionary(uniqueKeysWithValues: notice.fields)) == notice)
    }

    @Test func `a reason is made safe to show`() throws {
        let words = #","originalSees":"sidecar","originalSeesReason":"\u001b[2J\nx"}"#
        let report = try #require(SidecarReport(line: Self.short.dropLast() + words))
        #expect(report.originalSees == .sidecars(because: "[2Jx"))
    }

    @Test func `a holder of a later version's kind intercepts`() throws {
        let later = Self.long.replacing(#""kind":"mirror""#, with: #""kind":"sample""#)
        let holder = try #require(SidecarReport(line: later)?.holders?.first)
        #expect(holder.kind == .intercept && holder.servicePorts == [.init(53, .udp), .init(80)])
    }

    @Test(arguments: ["", "{}", "ready", #"{"ready":false,"publicKey":"k","tcp":"a:1"}"#, #"{"ready":true}"#])
    func `what isn't a report`(line: String) { #expect(SidecarReport(line: line) == nil) }

    @Test(arguments: [nil, "WvbBB+ks9eg4tiROBmJxPDHUV8KbPvAYJWZdZ1JIlDo="])
    func notices(key: String?) {
        let notice = DivertingNotice(divertingTo: key, open: 1, total: 1 << 40, passed: 3)
        #expect(DivertingNotice(Dictionary(uniqueKeysWithValues: notice.fields)) == notice)
        #expect(DivertingNotice(["READY": "1"]) == nil)
    }

    @Test func `holders of a notice`() {
        var holder = SidecarReport.Holder(
            key: "k",
            workspace: "ada@\u{1B}\n\"x\"",
            kind: .mirror,
            ports: [ServicePort(80), ServicePort(53, .udp)],
            since: "2026-11-22T21:40:03Z"
        )
        holder.behind = 7
        #expect(holder.servicePorts == [ServicePort(53, .udp), ServicePort(80)])
        for holders in [[], [holder], [holder, holder]] {
            var notice = DivertingNotice(divertingTo: nil, open: 0, total: 0, passed: 0)
            notice.holders = holders
            // Each field is a line.
            #expect(notice.fields.allSatisfy { !$0.1.contains("\n") })
            #expect(DivertingNotice(Dictionary(uniqueKeysWithValues: notice.fields))?.holders == holders)
        }
        #expect(DivertingNotice(["X_KL_DIVERTING": "", "X_KL_HOLDERS": "[{}]"])?.holders == nil)
    }
}

@Suite struct ReportUpkeepTests {
    private let start = ContinuousClock.now

    @Test func `other lines bring the ready line again, by their number or with the time`() {
        let upkeep = ReportUpkeep(written: 1_000, at: self.start)
        let (atMost, interval) = (ReportUpkeep.otherBytesAtMost, ReportUpkeep.interval)
        #expect(!upkeep.isDue(written: 1_000 + atMost - 1, at: self.start))
        #expect(upkeep.isDue(written: 1_000 + atMost, at: self.start))
        #expect(!upkeep.isDue(written: 1_001, at: self.start + interval - .milliseconds(1)))
        #expect(upkeep.isDue(written: 1_001, at: self.start + interval))
    }

    @Test func `a sidecar that says nothing else doesn't repeat itself`() {
        let upkeep = ReportUpkeep(written: 1_000, at: self.start)
        #expect(!upkeep.isDue(written: 1_000, at: self.start + .seconds(1_000_000)))
    }
}
