import Environments

extension ComposeReader {
    /// A service, with the positions of everything that must agree with other services.
    struct Draft {
        var service: ComposeService
        var position: Position
        var ports: [(port: ComposePort, position: Position)] = []
        var dependsOn: [Dependency] = []
    }

    struct Dependency {
        var name: String
        var position: Position
        /// False: the service runs without it, too. Nil: the file doesn't say, which means true.
        var isRequired: Bool?
    }

    /// † Each service is a process and a sidecar on this machine.
    private static let maxServices = 1_000

    /// - Parameter roots: the compose file, then the files that are laid over it.
    mutating func document(_ roots: [YAMLValue]) throws(Fault) -> [Draft] {
        var services: [YAMLValue.Entry] = []
        for entry in Self.layered(try self.rootEntries(roots)) {
            switch entry.key {
            case "services": services.append(entry)
            case "name", "version": break
            case "networks", "volumes", "configs", "secrets", "models":
                self.warn(
                    entry.position,
                    "\(entry.key.quoted) is ignored: the services of a local environment are processes of this machine"
                )
            case "include": self.warn(entry.position, "'include' is ignored: it isn't in this version")
            case let key where key.hasPrefix("x-"): try self.checkExtension(entry)
            default: self.warnOfUnknown(entry, of: "a compose file", known: ["name", "services", "version"])
            }
        }
        guard let first = services.first else {
            let position = roots.first?.position ?? Position(line: 1, column: 1)
            throw Fault(position, "there is no 'services' in it. Write at least one service with a command.")
        }
        return try self.services(services, at: first.position)
    }

    private func rootEntries(_ roots: [YAMLValue]) throws(Fault) -> [[YAMLValue.Entry]] {
        var result: [[YAMLValue.Entry]] = []
        for root in roots { result.append(try self.entries(root, "a compose file")) }
        return result
    }

    package static let nameVariable = "COMPOSE_PROJECT_NAME"

    /// The environment's name. As in compose, COMPOSE_PROJECT_NAME wins over the files, and a later file over an earlier
    /// one. Nil: neither gives a name.
    mutating func name(_ roots: [YAMLValue]) throws(Fault) -> String? {
        let variable = Self.nameVariable
        let value = Self.layered(try self.rootEntries(roots)).last { $0.key == "name" }?.value
        if let name = self.interpolation.environment[variable], !name.isEmpty {
            let position = value?.position ?? roots.first?.position ?? Position(line: 1, column: 1)
            return try Self.checked(name, "the variable \(variable), \(name.quoted),", at: position)
        }
        guard let value, !value.isNull else { return nil }
        let name = try self.text(value, "'name'")
        return try Self.checked(name, name.quoted, at: value.position)
    }

    /// The name as the file has it, even if it can't be an environment's name. Nil: the file gives none, or none that is
    /// readable.
    mutating func writtenName(_ roots: [YAMLValue]) -> String? {
        let layers = (try? self.rootEntries(roots)) ?? []
        guard let value = Self.layered(layers).last(where: { $0.key == "name" })?.value, !value.isNull,
            let name = try? self.text(value, "'name'"), !name.isEmpty, name.utf8.count <= Self.maxWrittenName
        else { return nil }
        return name
    }

    /// † The longest name that is worth comparing with what a user types.
    private static let maxWrittenName = 255

    private static func checked(_ name: String, _ what: String, at position: Position) throws(Fault) -> String {
        guard Self.validName(from: name) == name else {
            throw Fault(
                position,
                "\(what) can't be an environment's name. Write small letters, digits, '-' and '_', at most 63,"
                    + " a letter or digit first."
            )
        }
        return name
    }

    /// The name that compose derives from a folder's name; nil if no usable character is left.
    static func validName(from text: String) -> String? {
        let kept = text.lowercased().utf8.filter { $0.isAlphanumeric || $0 == 0x2D || $0 == 0x5F }
        let name = String(decoding: kept.drop { !$0.isAlphanumeric }.prefix(63), as: UTF8.self)
        return name.isEmpty ? nil : name
    }

    private mutating func services(_ entries: [YAMLValue.Entry], at position: Position) throws(Fault) -> [Draft] {
        let named = try self.layeredServices(entries)
        guard !named.isEmpty else {
            throw Fault(position, "'services' is empty. Write at least one service with a command.")
        }
        if named.count > Self.maxServices {
            throw Fault(
                named[Self.maxServices].entry.position,
                "there are \(named.count) services, and at most \(Self.maxServices) can be. Split the file."
            )
        }
        var services: [Draft] = []
        for (entry, layers) in named {
            try Self.checkServiceName(entry)
            services.append(try self.service(entry, layers))
        }
        // An optional dependency (`required: false`) on a service that isn't in the file is dropped.
        let names = Set(services.map(\.service.name))
        for index in services.indices {
            services[index].dependsOn.removeAll { $0.isRequired == false && !names.contains($0.name) }
            services[index].service.dependsOn = services[index].dependsOn.map(\.name)
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
        // Such a service's log would have the name of one of kl's own: logs/supervisor.log, logs/NAME.sidecar.log.
        guard name != "supervisor", !name.hasSuffix(".sidecar") else {
            throw Fault(entry.position, "\(name.quoted) is the name of one of kl's own logs. Give the service another.")
        }
    }
}

extension ComposeReader {
    /// The entries of several files in sequence, as compose merges them: a later entry is read later, and replaces or adds
    /// to the earlier one, depending on the key. `!reset` removes the earlier entries, `!override` replaces them.
    static func layered(_ layers: [[YAMLValue.Entry]]) -> [YAMLValue.Entry] {
        let all = Array(layers.joined())
        var begins: [String: Int] = [:]
        for (index, entry) in all.enumerated() where entry.value.change != nil { begins[entry.key] = index }
        return all.enumerated().filter { index, entry in
            !entry.isReset && index >= begins[entry.key] ?? 0
        }.map(\.element)
    }

    /// The services of all files, in the order in which they are first named, each with the values that the files give it.
    func layeredServices(
        _ entries: [YAMLValue.Entry]
    ) throws(Fault) -> [(entry: YAMLValue.Entry, layers: [YAMLValue.Entry])] {
        var services: [YAMLValue.Entry] = []
        for entry in entries where !entry.value.isNull { services += try self.entries(entry.value, "'services'") }
        var indices: [String: Int] = [:]
        var result: [(entry: YAMLValue.Entry, layers: [YAMLValue.Entry])] = []
        for service in Self.layered([services]) {
            if let index = indices[service.key] {
                result[index].layers.append(service)
            } else {
                indices[service.key] = result.count
                result.append((service, [service]))
            }
        }
        return result
    }
}
