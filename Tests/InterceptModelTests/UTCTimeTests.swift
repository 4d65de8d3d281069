import InterceptModel
import Testing

@Suite struct UTCTimeTests {
    @Test(arguments: [
        (0, 0, "1970-01-01T00:00:00.000Z"), (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
        (951_782_400, 1, "2000-02-29T00:00:00.001Z"), (4_102_444_800, 0, "2100-01-01T00:00:00.000Z"),
        (1_795_383_603, 120, "2026-11-22T21:40:03.120Z"),
    ])
    func `written and read`(seconds: Int, milliseconds: Int, text: String) {
        let time = UTCTime(seconds: seconds, milliseconds: milliseconds)
        #expect(time.rfc3339WithMilliseconds == text)
        #expect(UTCTime(rfc3339: text) == time)
        #expect(UTCTime(rfc3339: time.rfc3339) == UTCTime(seconds: seconds))
    }

    @Test(arguments: [("03.1Z", 100), ("03.12Z", 120), ("03.123999999Z", 123), ("03Z", 0)])
    func `fractions of any length`(end: String, milliseconds: Int) {
        #expect(UTCTime(rfc3339: "2026-11-22T21:40:" + end)?.milliseconds == milliseconds)
    }

    @Test(arguments: [
        "", "Z", "now", "2026-11-22", "2026-11-22 21:40:03Z", "2026-11-22T21:40:03", "2026-11-22T21:40:03+01:00",
        "2026-11-2xT21:40:03Z", "2026-11-22T21:40:03.Z", "2026-11-22T21:40:03.1234567890Z", "２０２６-11-22T21:40:03Z",
        "2026-11-22T21:40:3Z", "+026-11-22T21:40:03Z",
    ])
    func `no time`(text: String) { #expect(UTCTime(rfc3339: text) == nil) }

    @Test func `in local time with the date unless it is today`() {
        let now = UTCTime.now
        #expect(now.local.hasSuffix(now.shortLocal + now.local.suffix(3)))
        #expect(now.shortLocal.count == 5)
        #expect(UTCTime(seconds: now.seconds - 400 * 86_400).shortLocal.count == 16)
    }
}
