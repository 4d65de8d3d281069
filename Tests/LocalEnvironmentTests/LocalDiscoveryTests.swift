import Environments
import LocalEnvironment
import TestSupport
import Testing

/// The name by which an environment is found.
struct LocalDiscoveryTests {
    /// A mistake in a file doesn't take its name.
    @Test(arguments: [
        "name: shop\nservices:\n  web: {}\n", "name: shop\nservices: [\n", "services:\n  a: {\nname: 'shop' # x\n",
        "name: ${S:-shop}\nservices: {a: {command: x, env_file: none}}\n",
    ])
    func namesOfBrokenFiles(text: String) throws {
        let room = try Room()
        let path = try room.file("demo/compose.yaml", text)
        let found = LocalDiscovery.look(at: path, environment: [:])
        #expect(found.state == .broken && found.reference.name == "shop")
        try room.file("demo/compose.override.yaml", "name: other\n")
        #expect(LocalDiscovery.look(at: path, name: "before", environment: [:]).reference.name == "other")
        try room.file("demo/compose.yaml", "services: [\n")
        try room.file("demo/compose.override.yaml", "")
        #expect(LocalDiscovery.look(at: path, name: "before", environment: [:]).reference.name == "before")
    }

    @Test(arguments: ["My Shop", "-shop", "Shop"])
    func aNameThatIsTheMistakeIsFoundAsItIsWritten(name: String) throws {
        let room = try Room()
        let path = try room.file("compose.yaml", "name: \(name)\nservices: {a: {command: x}}\n")
        let found = LocalDiscovery.look(at: path, environment: [:])
        #expect(found.state == .broken && found.reference.name == name)
    }

    @Test func theCallersNameIsThatOfTheNearestFile() throws {
        let room = try Room()
        for folder in ["near", "near/here", "far"] {
            try room.file("\(folder)/compose.yaml", "services: {a: {command: x}}\n")
        }
        let far = EnvironmentReference(kind: .local, name: "far", location: room("far/compose.yaml"))
        let found = LocalDiscovery.find(
            from: room("near/here"),
            known: [far],
            environment: ["COMPOSE_PROJECT_NAME": "shop"]
        )
        #expect(found.prefix(2).map(\.reference.name) == ["shop", "near"])
        #expect(found.last?.reference.name == "far")
    }
}
