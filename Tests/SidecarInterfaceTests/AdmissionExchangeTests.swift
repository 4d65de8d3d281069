import CommandText
import HostSupport
import InterceptModel
import SidecarInterface
import Testing

private let key = "WvbBB+ks9eg4tiROBmJxPDHUV8KbPvAYJWZdZ1JIlDo="

struct SidecarWordsTests {
    private let first = #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:4711","listen":{}}"#

    @Test func theLastWholeLineCounts() {
        let second = """
            {"ready":true,"publicKey":"\(key)","tcp":"[::]:4712","intercept":{"diverting":true,"key":"\(key)",\
            "generation":3,"ports":[80],"open":1,"total":2,"passed":0}}
            """
        #expect(SidecarWords.last(in: "noise\n\(self.first)\n") == SidecarWords(publicKey: key, port: 4_711))
        let last = SidecarWords.last(in: "\(self.first)\n\(second)\n\(self.first.dropLast(3))")
        #expect(last?.port == 4_712)
        #expect(last?.intercept?.diverting == true && last?.intercept?.ports == [80] && last?.intercept?.total == 2)
    }

    @Test(arguments: [
        "", "{}\n", #"{"ready":true}"# + "\n", #"{"ready":true,"publicKey":"AAAA","tcp":"0.0.0.0:1"}"# + "\n",
        #"{"ready":false,"publicKey":"\#(key)","tcp":"0.0.0.0:1"}"# + "\n",
        #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0"}"# + "\n",
        #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:0"}"# + "\n",
        #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:70000"}"# + "\n",
        String(repeating: "{", count: 100_000) + "\n",
        #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:1""#,
    ])
    func whatIsNoSuchLineIsNone(_ text: String) { #expect(SidecarWords.last(in: text) == nil) }

    @Test func aLineOfEndlessLengthIsNone() {
        let long =
            #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:1","x":"\#(String(repeating: "x", count: 2_000_000))"}"#
        #expect(SidecarWords.last(in: long + "\n") == nil)
    }
}

struct AdmissionExchangeTests {
    private func result(_ output: String, errors: String = "", isLate: Bool = false) -> BoundedCommand.Result {
        BoundedCommand.Result(code: isLate ? nil : 0, output: output, errors: errors, isLate: isLate)
    }

    @Test func eachAnswerIsRead() {
        func answer(_ output: String) -> AdmissionExchange.Answer {
            AdmissionExchange.answer(self.result(output), reason: "no such container")
        }
        let ready = #"{"ready":true,"publicKey":"\#(key)","tcp":"0.0.0.0:4711","admitted":true}"#
        #expect(answer("noise\n\(ready)\n") == .admitted(SidecarWords(publicKey: key, port: 4_711)))
        #expect(answer(#"{"admitted":true}"#) == .absent("it doesn't say where it listens"))
        let busy = #"{"admitted":false,"code":"busy","holder":"bob\u001b@mac","since":"2026-12-01T00:00:00Z"}"#
        #expect(answer(busy) == .busy(holder: "bob@mac", since: "2026-12-01T00:00:00Z"))
        #expect(answer(#"{"admitted":false,"code":"ending","reason":"it ends"}"#) == .absent("it ends"))
        #expect(answer(#"{"admitted":false,"reason":"it is full"}"#) == .refused("it is full"))
        #expect(answer(#"{"admitted":false,"code":"busy"}"#) == .refused("it gives no reason"))
        #expect(answer("") == .absent("no such container"))
        #expect(AdmissionExchange.answer(self.result("", isLate: true), reason: "") == .silent)
    }

    @Test func whatLeavesAndEnds() {
        #expect(AdmissionExchange.leave(self.result(#"{"left":true,"isLast":true}"#)) == .wasLast)
        #expect(AdmissionExchange.leave(self.result(#"{"left":false}"#)) == .othersStay)
        #expect(AdmissionExchange.leave(self.result("", errors: "no sidecar runs")) == .absent)
        let silence = self.result("", errors: "kl-sidecar: the sidecar gives no answer")
        #expect(AdmissionExchange.leave(silence) == .silent)
        #expect(AdmissionExchange.end(silence, reason: "") == .silent)
        #expect(AdmissionExchange.end(self.result(#"{"ending":true}"#), reason: "") == .ending)
        let needed = self.result(#"{"ending":false,"reason":"bob holds 80"}"#)
        #expect(AdmissionExchange.end(needed, reason: "") == .needed("bob holds 80"))
        #expect(AdmissionExchange.end(self.result(""), reason: "gone") == .absent("gone"))
    }

    @Test func whereNoSidecarRuns() {
        func says(_ code: Int32?, _ errors: String) -> Bool {
            AdmissionExchange.saysNoSidecar(
                BoundedCommand.Result(code: code, output: "", errors: errors, isLate: false, isTooLong: false)
            )
        }
        #expect(says(3, ""))
        // As earlier versions say it.
        #expect(
            says(1, "kl-sidecar: no sidecar runs in this network namespace.\ncommand terminated with exit code 1\n")
        )
        #expect(!says(1, "kl-sidecar: 2 sidecars run here") && !says(0, "") && !says(nil, ""))
    }

    @Test func aMirrorsKeyGetsNoOtherRight() {
        let mirror = Admission("-k", label: "a b", holding: .mirror, [.init(80)])
        #expect(
            AdmissionExchange.admit(mirror, force: true)
                == ["admit", "-k", "--label=a b", "--may=mirror", "--claim=mirror:80", "--force"]
        )
        #expect(Admission("k", label: "a", holding: .intercept, []).grant == nil)
        #expect(Admission("k", label: "a", holding: .intercept, []).claim == nil)
    }
}
