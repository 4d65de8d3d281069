import Environments
import InterceptModel

/// Checks between services, after each has been read by itself: colliding ports on one machine, and circular dependencies.
struct ComposeChecks {
    let services: [ComposeReader.Draft]
    /// The files' paths, as messages name them.
    let paths: [String]

    func check() throws(Fault) {
        try self.checkPorts()
        try self.checkDependencies()
    }

    private struct Use {
        var service: String
        var position: Position
    }

    private func checkPorts() throws(Fault) {
        // TCP port 53 and UDP port 53, say, are two different ports.
        var published: [ServicePort: Use] = [:]
        var targets: [ServicePort: Use] = [:]
        for service in self.services {
            let name = service.service.name
            if case .redirect(let netns) = service.service.diversion {
                try Self.checkRedirected(service)
                // Ports in another network namespace can't collide with this machine's ports.
                guard netns == nil else { continue }
            }
            let isListening = service.service.diversion == .listen
            for (port, position) in service.ports {
                if isListening, port.published == port.target { throw self.sameNumber(port, at: position) }
                if let other = published[port.publishedPort] {
                    let both = self.places(other, Use(service: name, position: position))
                    throw Fault(
                        position,
                        "port \(port.publishedPort) is published \(both). Publish one of them on another port."
                    )
                }
                published[port.publishedPort] = Use(service: name, position: position)
                if let other = targets[port.targetPort], other.service != name {
                    throw Fault(
                        position,
                        "\(other.service.quoted) (\(self.line(other.position))) and \(name.quoted)"
                            + " (\(self.line(position)))"
                            + " both listen on \(port.targetPort) themselves, and they share this machine."
                            + " Let one of them listen on another port."
                    )
                }
                targets[port.targetPort] = Use(service: name, position: position)
            }
        }
        for service in self.services where !service.service.isInNamespace {
            for (port, position) in service.ports {
                guard let other = published[port.targetPort], other.service != service.service.name else { continue }
                throw Fault(
                    position,
                    "\(service.service.name.quoted) listens on \(port.targetPort) itself, and \(other.service.quoted)"
                        + " (\(self.line(other.position))) publishes that port. Let one of them use another port."
                )
            }
        }
    }

    /// With redirect, clients connect to the port on which the service itself listens, so both numbers must be the same.
    private static func checkRedirected(_ service: ComposeReader.Draft) throws(Fault) {
        var known: Set<ServicePort> = []
        for (port, position) in service.ports {
            if port.published != port.target {
                throw Fault(
                    position,
                    "a service that is diverted by redirect is reached where it listens itself, and \(port.published) isn't"
                        + " \(port.target). Write \"\(port.target):\(port.target)\"."
                )
            }
            if !known.insert(port.targetPort).inserted {
                throw Fault(position, "port \(port.targetPort) is there twice. Take one of them out.")
            }
        }
    }

    private func places(_ first: Use, _ second: Use) -> String {
        let lines = (self.line(first.position), self.line(second.position))
        guard first.service == second.service else {
            return "by \(first.service.quoted) (\(lines.0)) and by \(second.service.quoted) (\(lines.1))"
        }
        let isOneFile = first.position.file == second.position.file
        let both = isOneFile ? "lines \(first.position.line) and \(second.position.line)" : "\(lines.0) and \(lines.1)"
        return "twice by \(first.service.quoted) (\(lines.0 == lines.1 ? lines.0 : both))"
    }

    /// "line 7" for the compose file, "line 7 of NAME" for any other file.
    private func line(_ position: Position) -> String {
        guard position.file > 0, self.paths.indices.contains(position.file) else { return "line \(position.line)" }
        let name = self.paths[position.file].split(separator: "/").last ?? ""
        return "line \(position.line) of \(name)"
    }

    private func sameNumber(_ port: ComposePort, at position: Position) -> Fault {
        let taken = Set(self.services.flatMap { $0.ports.flatMap { [$0.port.published, $0.port.target] } })
        var other = PortText.other(than: port.target)
        while taken.contains(other), other < .max { other += 1 }
        return Fault(
            position,
            "port \(port.published) is the published one and the service's own, and on one machine they can't be the same."
                + " Let the service listen on another, such as \(other), and write \"\(port.published):\(other)\"."
        )
    }

    private func checkDependencies() throws(Fault) {
        let names = self.services.map(\.service.name)
        let indices = Dictionary(uniqueKeysWithValues: names.enumerated().map { ($1, $0) })
        for service in self.services {
            for dependency in service.dependsOn where indices[dependency.name] == nil {
                let (name, position) = (dependency.name, dependency.position)
                let suggestion = Suggestion.sentence(for: name, among: names.filter { $0 != service.service.name })
                throw Fault(
                    position,
                    "\(service.service.name.quoted) depends on \(name.quoted), which isn't in the file.\(suggestion) Correct the name, or take it out."
                )
            }
        }
        var done: Set<String> = []
        for service in self.services {
            var way: [String] = []
            try self.follow(service, indices: indices, way: &way, done: &done)
        }
    }

    /// Depth-first search; a service that is already on the current path closes a circle. At most as deep as there are
    /// services.
    private func follow(
        _ service: ComposeReader.Draft,
        indices: [String: Int],
        way: inout [String],
        done: inout Set<String>
    ) throws(Fault) {
        guard !done.contains(service.service.name) else { return }
        way.append(service.service.name)
        for dependency in service.dependsOn {
            let (name, position) = (dependency.name, dependency.position)
            if let begin = way.firstIndex(of: name) {
                let circle = way[begin...] + [name]
                let shown = circle.count > 12 ? circle.prefix(6) + ["…"] + circle.suffix(5) : circle
                throw Fault(
                    position,
                    "services wait for each other in a circle: \(shown.joined(separator: " → "))."
                        + " Take one of them out of 'depends_on'."
                )
            }
            if let index = indices[name] {
                try self.follow(self.services[index], indices: indices, way: &way, done: &done)
            }
        }
        way.removeLast()
        done.insert(service.service.name)
    }
}

extension ComposeService {
    fileprivate var isInNamespace: Bool {
        if case .redirect(let netns) = self.diversion { netns != nil } else { false }
    }
}

extension ComposePort {
    package var publishedPort: ServicePort { ServicePort(self.published, self.transport) }
    package var targetPort: ServicePort { ServicePort(self.target, self.transport) }
}
