import ArgumentParser
import EnvironmentCatalog
import Environments
import WorkspaceAPI
import WorkspaceDaemon

/// The daemon, which `DaemonStarter` starts; users don't type this command.
struct DaemonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "daemon",
        abstract: "Hold this workspace's intercepts: kl starts it by itself.",
        shouldDisplay: false
    )

    @Option(help: "The descriptor of the lock that was taken for it.")
    var lockDescriptor: Int32?

    @Option(help: "The descriptor that gets one byte once it listens.")
    var readyDescriptor: Int32?

    func run() throws {
        try DaemonProcess(
            home: WorkspaceHome(),
            lockDescriptor: self.lockDescriptor,
            readyDescriptor: self.readyDescriptor,
            makeEnvironment: { try EnvironmentCatalog.environment($0) }
        ).run()
    }
}
