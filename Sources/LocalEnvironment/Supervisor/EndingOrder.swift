/// The order in which services end: each after all services that depend on it.
struct EndingOrder {
    private var waiting: [String]
    private var ending: Set<String> = []
    private let dependents: [String: Set<String>]

    init(_ services: [(name: String, dependsOn: [String])]) {
        self.waiting = services.reversed().map(\.name)
        let names = Set(self.waiting)
        var dependents: [String: Set<String>] = [:]
        for service in services where names.contains(service.name) {
            for other in service.dependsOn { dependents[other, default: []].insert(service.name) }
        }
        self.dependents = dependents
    }

    var isDone: Bool { self.waiting.isEmpty && self.ending.isEmpty }

    /// The services that may be ended now; each is returned once.
    mutating func next() -> [String] {
        let alive = self.ending.union(self.waiting)
        var free = self.waiting.filter { alive.isDisjoint(with: self.dependents[$0] ?? []) }
        // Only a circle of dependencies is left, which no compose file should have: end all of them.
        if free.isEmpty, self.ending.isEmpty { free = self.waiting }
        self.waiting.removeAll { free.contains($0) }
        self.ending.formUnion(free)
        return free
    }

    mutating func ended(_ name: String) { self.ending.remove(name) }
}
