extension ComposeReader {
    /// The entries of several files one after the other, as compose merges them: what comes later is read later, and wins or
    /// is added, as each key has it. `!reset` takes away what came before, `!override` takes its place.
    static func layered(_ layers: [[YAMLValue.Entry]]) -> [YAMLValue.Entry] {
        let all = Array(layers.joined())
        var begins: [String: Int] = [:]
        for (index, entry) in all.enumerated() where entry.value.change != nil { begins[entry.key] = index }
        return all.enumerated().filter { index, entry in
            !entry.isReset && index >= begins[entry.key] ?? 0
        }.map(\.element)
    }

    /// The services of all files, in the order in which they are first named, each with what every file says of it.
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
