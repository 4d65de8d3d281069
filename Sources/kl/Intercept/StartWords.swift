import Environments
import InterceptModel
import WorkspaceAPI

/// The texts of a start that differ between an intercept and a mirror.
struct StartWords {
    let request: StartRequest

    init(_ request: StartRequest) { self.request = request }

    private var isMirror: Bool { self.request.kind == .mirror }

    var begins: String { self.isMirror ? "Mirroring" : "Intercepting" }
    /// What the workspace gets of a port: connections, or copies of them.
    var what: String { self.isMirror ? "copies of " : "" }
    var withoutServer: String { Self.withoutServer(self.request.kind, self.request.onUnavailable) }

    var warning: String? {
        guard self.isMirror else { return nil }
        return
            "what your program writes to databases, queues and other services that others use too is written twice: by the side "
            + "that answers, and by yours."
    }

    static func withoutServer(_ kind: HoldingKind, _ onUnavailable: OnUnavailable?) -> String {
        switch (kind, onUnavailable) {
        case (.mirror, _): "nothing is copied"
        case (.intercept, .refuse): "clients are refused"
        case (.intercept, _): "the original service answers"
        }
    }

    /// - Parameter holders: all of the service.
    func done(_ holders: [InterceptView]) -> String {
        let service = self.request.service
        guard self.isMirror else { return "Traffic to \(service) now reaches your workspace." }
        return "Copies of traffic to \(service) now reach your workspace; \(self.whoAnswers(holders))."
    }

    /// `the original answers`; `grace@thinkpad answers for port 80, the original for port 81`
    private func whoAnswers(_ holders: [InterceptView]) -> String {
        let ports = self.request.mappings.map(\.port).sorted()
        var sides: [(name: String, ports: [ServicePort])] = []
        for port in ports {
            let holder = holders.first { $0.kind == .intercept && $0.phase == .active && $0.holds(port) }
            let name = holder?.workspace.printable ?? "the original"
            if let place = sides.firstIndex(where: { $0.name == name }) {
                sides[place].ports.append(port)
            } else {
                sides.append((name, [port]))
            }
        }
        guard sides.count > 1 else { return "\(sides.first?.name ?? "the original") answers" }
        return sides.enumerated().map { number, side in
            let list = side.ports.map { "\($0)" }.joined(separator: ", ")
            return "\(side.name)\(number == 0 ? " answers" : "") for port\(side.ports.count == 1 ? "" : "s") \(list)"
        }.joined(separator: ", ")
    }
}

/// The lines for a user who keeps an intercept in the foreground.
enum ForegroundNews {
    static func lines(from old: InterceptStatus?, to new: InterceptStatus) -> [String] {
        guard let old else { return [] }
        var lines: [String] = []
        if old.phase != new.phase {
            let reason = new.reason.map { ": \($0.printable)" } ?? ""
            lines.append("\(new.service) is \(new.phase.rawValue)\(reason)")
        }
        for mapping in new.mappings {
            let was = old.isMissing(mapping)
            let isMissing = new.isMissing(mapping)
            if was, !isMissing {
                let does = new.kind == .mirror ? "gets copies of" : "answers for"
                lines.append("✓ \(mapping.target.shown) listens now: it \(does) port \(mapping.port)")
            }
            if !was, isMissing {
                let consequence = StartWords.withoutServer(new.kind, new.onUnavailable)
                lines.append("! nothing is listening on \(mapping.target.shown): \(consequence)")
            }
        }
        return lines
    }
}
