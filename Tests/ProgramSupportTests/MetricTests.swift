import ProgramSupport
import Testing

@Suite struct MetricTests {
    @Test func `as Prometheus reads it`() {
        let metrics = [
            Metric("kl_up", .gauge, "Whether it is up.", 1),
            Metric(
                "kl_drops_total",
                .counter,
                "Drops.",
                [([("reason", "mac1")], 3), ([("reason", "old"), ("b", "")], 0)]
            ),
            Metric("kl_none", .gauge, "Has no value now.", []),
        ]
        #expect(
            Metric.render(metrics) == """
                # HELP kl_up Whether it is up.
                # TYPE kl_up gauge
                kl_up 1
                # HELP kl_drops_total Drops.
                # TYPE kl_drops_total counter
                kl_drops_total{reason="mac1"} 3
                kl_drops_total{reason="old",b=""} 0
                # HELP kl_none Has no value now.
                # TYPE kl_none gauge

                """
        )
        #expect(Metric.render([]).isEmpty)
    }

    @Test(
        arguments: [
            (0, "0"), (-0.0, "0"), (-3, "-3"), (0.25, "0.25"), (8_999_999_999_999_999, "8999999999999999"),
            (1e16, "1e+16"),
            (.nan, "NaN"), (.infinity, "+Inf"), (-.infinity, "-Inf"), (1e-300, "1e-300"),
        ] as [(Double, String)]
    )
    func `a number`(value: Double, text: String) {
        #expect(Metric.render([Metric("m", .gauge, "h", value)]).hasSuffix("\nm \(text)\n"))
    }

    @Test func `no text can end its own place`() {
        let metric = Metric("m", .gauge, "one\ntwo \\ \"three\"", [([("l", "a\"} 1\nb \\ c")], 2)])
        #expect(
            Metric.render([metric])
                == "# HELP m one\\ntwo \\\\ \"three\"\n# TYPE m gauge\nm{l=\"a\\\"} 1\\nb \\\\ c\"} 2\n"
        )
    }
}
