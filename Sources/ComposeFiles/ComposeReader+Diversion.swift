import Environments
import HostSupport

extension ComposeReader {
    /// A service's `x-kl`, merged from all files.
    struct DiversionText {
        var isRedirect: Bool?
        var netns: String?
        var position = Position(line: 1, column: 1)

        func diversion() throws(Fault) -> ComposeService.Diversion {
            guard self.isRedirect != false else {
                guard self.netns == nil else {
                    throw Fault(
                        self.position,
                        "a service in a network namespace of its own is diverted by redirect. Leave out 'divert: listen'."
                    )
                }
                return .listen
            }
            return self.isRedirect == true || self.netns != nil ? .redirect(netns: self.netns) : .listen
        }
    }

    /// Reads one file's `x-kl` for the service.
    mutating func diversion(_ entry: YAMLValue.Entry, into result: inout DiversionText) throws(Fault) {
        if entry.value.change != nil { result = DiversionText() }
        guard !entry.value.isNull else { return }
        result.position = entry.value.position
        for key in try self.entries(entry.value, "'x-kl'") where !key.value.isNull || key.isReset {
            switch key.key {
            case "divert" where key.isReset: result.isRedirect = nil
            case "divert":
                let text = try self.text(key.value, "'divert'")
                guard text == "listen" || text == "redirect" else {
                    throw Fault(key.value.position, "\(text.quoted) isn't a way to divert. Write listen or redirect.")
                }
                result.isRedirect = text == "redirect"
            case "netns" where key.isReset: result.netns = nil
            case "netns":
                let path = try self.text(key.value, "'netns'")
                guard path.hasPrefix("/") else {
                    throw Fault(
                        key.value.position,
                        "\(path.quoted) isn't the path of a network namespace. Write one, such as /run/netns/blue."
                    )
                }
                result.netns = path
            default: self.warnOfUnknown(key, of: "'x-kl'", known: ["divert", "netns"])
            }
        }
    }
}
