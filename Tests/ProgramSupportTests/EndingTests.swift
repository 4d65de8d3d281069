import ArgumentParser
import CommandText
import HostSupport
import InterceptModel
import InterceptProtocol
import Testing

@testable import ProgramSupport

/// Scripts rely on the codes, and people on one sentence.
@Suite struct EndingTests {
    struct Program: ParsableCommand {
        static let configuration = CommandConfiguration(commandName: "program", version: "1")

        @Option(transform: { try PortMapping($0) }) var map: PortMapping

        @OptionGroup var agent: AgentOptions

        func run() {}

        func validate() throws {
            if self.map.port.number == 1 { throw ValidationError("Not 1.") }
        }
    }

    private func ending(_ arguments: String...) -> Ending? {
        do {
            var command = try Program.parseAsRoot(arguments)
            try command.run()
            return nil
        } catch {
            return Ending(of: error, in: Program.self)
        }
    }

    @Test(arguments: [
        ([], "--map"), (["--map", "x"], "'x' isn't a port."), (["--map", "1"], "program: Not 1."),
        (["--map", "80", "--mop"], "--mop"),
        (["--map", "80", "--log-level", "loud"], "loud"), (["--map", "80", "--log-format", "xml"], "xml"),
    ])
    func `wrong usage`(arguments: [String], words: String) throws {
        do {
            _ = try Program.parseAsRoot(arguments)
            Issue.record("it was taken")
        } catch {
            let ending = Ending(of: error, in: Program.self)
            #expect(ending.code == 2)
            #expect(ending.text.hasPrefix("program: ") && ending.text.hasSuffix("\n"))
            #expect(ending.text.contains(words))
        }
    }

    @Test func `no error`() {
        #expect(ending("--map", "80", "--log-level", "debug", "--log-format", "json") == nil)
        #expect(ending("--help")?.code == 0)
        #expect(ending("--version")?.text == "1\n")
        #expect(ending("--version")?.code == 0)
    }

    @Test func `failed`() {
        struct Failure: Error, CustomStringConvertible { let description = "The port is taken." }
        let ending = Ending(of: Failure(), in: Program.self)
        #expect((ending.text, ending.code) == ("program: The port is taken.\n", 1))
        let late = Ending(of: FlagError("'x' isn't a key."), in: Program.self)
        #expect((late.text, late.code) == ("program: 'x' isn't a key.\n", 2))
        #expect(Ending(name: "kl", saying: nil, code: 5).text.isEmpty)
        #expect(Ending(name: "kl", saying: "No.", code: 5).text == "kl: No.\n")
    }
}
