import HostSupport

extension ComposeReader {
    /// A service's `x-kl`: how the sidecar takes its clients.
    mutating func diversion(_ entry: YAMLValue.Entry) throws(Fault) -> ComposeService.Diversion {
        guard !entry.value.isNull else { return .listen }
        var isRedirect: Bool?
        var netns: String?
        for key in try self.entries(entry.value, "'x-kl'") where !key.value.isNull {
            switch key.key {
            case "divert":
                let text = try self.text(key.value, "'divert'")
                guard text == "listen" || text == "redirect" else {
                    throw Fault(key.value.position, "\(text.quoted) isn't a way to divert. Write listen or redirect.")
                }
                isRedirect = text == "redirect"
            case "netns":
                let path = try self.text(key.value, "'netns'")
                guard path.hasPrefix("/") else {
                    throw Fault(
                        key.value.position,
                        "\(path.quoted) isn't the path of a network namespace. Write one, such as /run/netns/blue."
                    )
                }
                netns = path
            default: self.warnOfUnknown(key, of: "'x-kl'", known: ["divert", "netns"])
            }
        }
        guard isRedirect != false else {
            guard netns == nil else {
                throw Fault(
                    entry.value.position,
                    "a service in a network namespace of its own is diverted by redirect. Leave out 'divert: listen'."
                )
            }
            return .listen
        }
        return isRedirect == true || netns != nil ? .redirect(netns: netns) : .listen
    }
}
