import Interactive
import Libc

/// Shows the dialogues of `Interactive` in a real terminal, for the tests: `picker-trial services 200`. What was chosen is
/// a line on standard output; the exit code is 0, 1 for Esc, 130 for Ctrl-C, 2 where there is no terminal.
@main
struct Trial {
    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        let count = arguments.dropFirst().first.flatMap { Int($0) } ?? 0
        do {
            var interview = Interview(TerminalRespondent())
            switch arguments.first {
            case "services":
                self.end(try interview.service(Names.services(count)), \.name)
            case "ports":
                let ports = (0..<max(0, count)).map {
                    PortOffer(8_080 + UInt16(clamping: $0), name: $0 == 0 ? "http" : nil)
                }
                self.end(try interview.ports(of: "api-server", ports)) { answers in
                    answers.map { "\($0.service.text):\($0.workspace)" }.joined(separator: " ")
                }
            case "start":
                switch try interview.service(Names.services(count)) {
                case .chosen(let service):
                    self.end(try interview.ports(of: service.name, service.ports)) { answers in
                        service.name + answers.map { " \($0.service.text):\($0.workspace)" }.joined()
                    }
                case .cancelled: exit(1)
                case .interrupted: exit(130)
                }
            case "stop":
                let offers = [
                    InterceptOffer(service: "api-server", phase: "Active", ports: "8080 → 3000"),
                    InterceptOffer(service: "billing", phase: "Degraded"),
                ]
                self.end(try interview.intercept(offers), \.service)
            case "exit":
                // As a thread does that is told to end the program.
                Task.detached {
                    usleep(300_000)
                    exit(7)
                }
                _ = try interview.service(Names.services(20))
            case "progress":
                self.showProgress(milliseconds: count)
            default:
                self.say("usage: picker-trial services|ports|start|stop|exit|progress [COUNT]", to: STDERR_FILENO)
                exit(2)
            }
        } catch {
            self.say("picker-trial: \(error)", to: STDERR_FILENO)
            exit(2)
        }
    }

    private static func end<Choice>(_ result: DialogueResult<Choice>, _ text: (Choice) -> String) {
        switch result {
        case .chosen(let choice): self.say(text(choice), to: STDOUT_FILENO)
        case .cancelled: exit(1)
        case .interrupted: exit(130)
        }
    }

    private static func showProgress(milliseconds: Int) {
        let progress = Progress()
        progress.begin("starting the sidecar")
        usleep(UInt32(clamping: milliseconds * 1_000))
        progress.succeed("sidecar running next to api-server", seconds: 0.2)
        progress.begin("waiting for the tunnel")
        usleep(UInt32(clamping: milliseconds * 1_000))
        progress.note("! nothing is listening on localhost:3000 yet")
        usleep(UInt32(clamping: milliseconds * 1_000))
        progress.fail("the tunnel didn't come up")
    }

    private static func say(_ line: String, to descriptor: CInt) {
        let bytes = Array((line + "\n").utf8)
        _ = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
    }
}
