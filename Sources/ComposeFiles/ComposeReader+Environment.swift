import HostSupport

extension ComposeReader {
    /// A mapping, or a list of NAME=VALUE. A name without a value takes the caller's; if the caller has none, the variable
    /// is unset, whatever an `env_file` says.
    mutating func environment(_ value: YAMLValue, into result: inout [String: String?]) throws(Fault) {
        if case .sequence(let elements) = value.kind {
            for element in elements {
                let text = try self.text(element, "an element of 'environment'")
                let variable = Assignment(text)
                let name = variable?.name ?? text
                try Self.checkName(name, at: element.position)
                result.updateValue(variable?.value ?? self.interpolation.environment[name], forKey: name)
            }
            return
        }
        for entry in try self.entries(value, "'environment'") {
            try Self.checkName(entry.key, at: entry.position)
            if entry.isReset {
                result.removeValue(forKey: entry.key)
            } else if entry.value.isNull {
                result.updateValue(self.interpolation.environment[entry.key], forKey: entry.key)
            } else {
                result.updateValue(try self.variable(entry), forKey: entry.key)
            }
        }
    }

    /// An unquoted number or boolean is rewritten in YAML's canonical form, as compose does.
    private mutating func variable(_ entry: YAMLValue.Entry) throws(Fault) -> String {
        let text = try self.text(entry.value, "the variable \(entry.key.quoted)")
        guard let other = entry.value.writtenAnew, other != text else { return text }
        self.warn(
            entry.value.position,
            "\(text.quoted) is \(other.quoted) here, as YAML and compose have it: in quotes it would be the text that it is"
        )
        return other
    }

    private static func checkName(_ name: String, at position: Position) throws(Fault) {
        guard !name.isEmpty, !name.utf8.contains(UInt8(ascii: "=")), !name.utf8.contains(0) else {
            throw Fault(
                position,
                "\(name.quoted) can't be a variable's name. Write NAME=VALUE in a list, NAME: VALUE in a mapping."
            )
        }
        guard name.last?.isWhitespace != true else {
            throw Fault(position, "the variable's name \(name.quoted) ends with a blank. Leave the blank out.")
        }
    }
}
