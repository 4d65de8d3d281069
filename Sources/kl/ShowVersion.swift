import ArgumentParser
import HostSupport
import InterceptModel
import Libc

struct ShowVersion: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "version",
        abstract: "Print the version of kl and of its tunnel protocol."
    )

    func run() {
        Console.write(Version.text + "\n", to: STDOUT_FILENO)
    }
}
