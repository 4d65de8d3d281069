import Libc
import Testing

@testable import Interactive

@Suite struct ProgressTests {
    /// What is written to a pipe meanwhile. The second thing that `body` gets waits until a text was written.
    static func written(_ body: (CInt, _ until: (String) -> Void) -> Void) -> String {
        var ends: [CInt] = [-1, -1]
        #expect(pipe(&ends) == 0)
        var text = ""
        func readMore() -> Bool {
            var wait = pollfd(fd: ends[0], events: Int16(POLLIN), revents: 0)
            guard poll(&wait, 1, 60_000) > 0 else { return false }
            var bytes = [UInt8](repeating: 0, count: 65_536)
            let count = read(ends[0], &bytes, bytes.count)
            text += String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
            return count > 0
        }
        body(ends[1]) { expected in while !text.contains(expected), readMore() {} }
        close(ends[1])
        while readMore() {}
        close(ends[0])
        return text
    }

    @Test func elsewhereOnlyWhatIsDoneIsALine() {
        let text = Self.written { descriptor, _ in
            let progress = Progress(descriptor: descriptor)
            progress.begin("waiting for the sidecar")
            progress.succeed("sidecar running next to api-server", seconds: 0.2)
            progress.begin("waiting for the tunnel")
            progress.note("! nothing is listening\u{1B}[31m")
            progress.fail()
            progress.succeed("port 8080 → localhost:3000")
            progress.succeed("tunnel up: udp 127.0.0.1:51820, peer 3Jx5…4Q=, rtt 0.3 ms", seconds: 0.1)
        }
        #expect(
            text == """
                  ✓ sidecar running next to api-server                       0.2 s
                ! nothing is listening?[31m
                  ✗ waiting for the tunnel
                  ✓ port 8080 → localhost:3000
                  ✓ tunnel up: udp 127.0.0.1:51820, peer 3Jx5…4Q=, rtt 0.3 ms  0.1 s

                """
        )
    }

    @Test func elsewhereALongStepIsALine() {
        let text = Self.written { descriptor, until in
            let progress = Progress(descriptor: descriptor)
            progress.begin("waiting for the tunnel")
            until("…")
            progress.succeed("tunnel up")
        }
        #expect(text == "  … waiting for the tunnel\n  ✓ tunnel up\n")
    }

    @Test func silence() {
        let text = Self.written { descriptor, _ in
            let progress = Progress(descriptor: descriptor, form: .silent)
            progress.begin("a")
            progress.note("b")
            progress.succeed()
            progress.fail("c")
        }
        #expect(text == "")
    }

    @Test func turning() {
        let text = Self.written { descriptor, until in
            let progress = Progress(descriptor: descriptor, form: .turning)
            progress.begin("waiting")
            until("⠙")
            progress.succeed("done")
        }
        #expect(text.hasPrefix("\r  "))
        #expect(text.contains("⠋") && text.contains("⠙") && text.contains(" waiting\u{1B}[J\r"))
        #expect(text.contains("\r\u{1B}[J  ") && text.hasSuffix(" done\n"))
    }

    /// However fast steps follow, none writes into another's row.
    @Test func manyShortSteps() {
        let text = Self.written { descriptor, _ in
            let progress = Progress(descriptor: descriptor, form: .turning)
            for step in 0..<200 {
                progress.begin("step \(step)")
                progress.succeed()
            }
        }
        let shown = text.split(separator: "\n").map { $0.split(separator: "\u{1B}[J").last ?? "" }
        #expect(shown.count == 200)
        for (step, line) in shown.enumerated() { #expect(line.hasSuffix("step \(step)")) }
    }

    @Test(
        arguments: [
            (0, "0.00 s"), (0.04, "0.04 s"), (0.094, "0.09 s"), (0.096, "0.1 s"), (0.2, "0.2 s"), (1.25, "1.3 s"),
            (75, "75.0 s"),
            (-1, "0.00 s"),
        ] as [(Double, String)]
    )
    func times(seconds: Double, text: String) {
        #expect(Progress.text(ofSeconds: seconds) == text)
    }
}
