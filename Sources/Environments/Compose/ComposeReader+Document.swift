extension ComposeReader {
    /// A service, with the places of what has to fit to other services.
    struct Draft {
        var service: ComposeService
        var position: Position
        var ports: [(port: ComposePort, position: Position)] = []
        var dependsOn: [(name: String, position: Position)] = []
    }

    /// † Each is a process and a sidecar of this machine.
    private static let maxServices = 1_000

    mutating func document(_ root: YAMLValue) throws(Fault) -> (name: String?, services: [Draft]) {
        var name: String?
        var services: [Draft]?
        for entry in try self.entries(root, "a compose file") {
            switch entry.key {
            case "name": name = try self.environmentName(entry.value)
            case "services": services = try self.services(entry)
            case "version": break
            case "networks", "volumes", "configs", "secrets":
                self.warn(
                    entry.position,
                    "\(entry.key.quoted) is ignored: the services of a local environment are processes of this machine"
                )
            case "include": self.warn(entry.position, "'include' is ignored: it isn't in this version")
            case let key where key.hasPrefix("x-"): try self.checkExtension(entry)
            default: self.warnOfUnknown(entry, of: "a compose file", known: ["name", "services", "version"])
            }
        }
        guard let services else {
            throw Fault(root.position, "there is no 'services' in it. Write at least one service with a command.")
        }
        return (name, services)
    }

    private mutating func environmentName(_ value: YAMLValue) throws(Fault) -> String {
        let name = try self.text(value, "'name'")
        guard Self.validName(from: name) == name else {
            throw Fault(
                value.position,
                "\(name.quoted) can't be an environment's name. Write small letters, digits, '-' and '_', at most 63,"
                    + " a letter or digit first."
            )
        }
        return name
    }

    /// What compose makes of a folder's name; nil where nothing is left.
    static func validName(from text: String) -> String? {
        let kept = text.lowercased().utf8.filter { $0.isAlphanumeric || $0 == 0x2D || $0 == 0x5F }
        let name = String(decoding: kept.drop { !$0.isAlphanumeric }.prefix(63), as: UTF8.self)
        return name.isEmpty ? nil : name
    }

    private mutating func services(_ entry: YAMLValue.Entry) throws(Fault) -> [Draft] {
        let entries = entry.value.isNull ? [] : try self.entries(entry.value, "'services'")
        guard !entries.isEmpty else {
            throw Fault(entry.position, "'services' is empty. Write at least one service with a command.")
        }
        if entries.count > Self.maxServices {
            throw Fault(
                entries[Self.maxServices].position,
                "there are \(entries.count) services, and at most \(Self.maxServices) can be. Split the file."
            )
        }
        var services: [Draft] = []
        for entry in entries {
            try Self.checkServiceName(entry)
            services.append(try self.service(entry))
        }
        return services
    }

    private static func checkServiceName(_ entry: YAMLValue.Entry) throws(Fault) {
        let name = entry.key
        let isValid =
            name.utf8.count <= 63 && (name.utf8.first.map { $0.isAlphanumeric || $0 == 0x5F } ?? false)
            && name.utf8.allSatisfy { $0.isAlphanumeric || [0x2D, 0x2E, 0x5F].contains($0) }
        guard isValid else {
            throw Fault(
                entry.position,
                "\(name.quoted) can't be a service's name. Write letters, digits, '.', '_' and '-', at most 63,"
                    + " a letter, digit or '_' first."
            )
        }
        // Their logs would be kl's own: logs/supervisor.log, logs/NAME.sidecar.log.
        guard name != "supervisor", !name.hasSuffix(".sidecar") else {
            throw Fault(entry.position, "\(name.quoted) is the name of one of kl's own logs. Give the service another.")
        }
    }
}
