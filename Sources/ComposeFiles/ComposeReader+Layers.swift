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
