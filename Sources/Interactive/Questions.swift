/// The exact texts of `kl`'s questions.
public enum Questions {
    public static func environment(_ offers: [EnvironmentOffer]) -> Picker {
        Picker(
            prompt: "Select environment to connect: ",
            header: nil,
            items: offers.map { PickerItem($0.line) },
            multiple: false
        )
    }

    public static func service(_ offers: [ServiceOffer]) -> Picker {
        Picker(
            prompt: "Select service to intercept: ",
            header: nil,
            items: offers.map { offer in
                // A service without ports can't be intercepted.
                let refusal = offer.refusal ?? (offer.ports.isEmpty ? "nothing to intercept" : nil)
                return PickerItem(offer.line, disabledReason: refusal)
            },
            multiple: false
        )
    }

    /// The question for a service's ports, which is only asked if there are several.
    public enum Ports: Sendable {
        case none(sentence: String)
        case only(PortOffer, line: String)
        case several(Picker)
    }

    public static func ports(of service: String, _ offers: [PortOffer]) -> Ports {
        guard let first = offers.first else {
            return .none(sentence: "service '\(service)' has no ports. Declare them where the service is defined.")
        }
        if offers.count == 1 {
            return .only(first, line: "Service '\(service)' has 1 port: \(first.text) (auto-selected)")
        }
        let header =
            "Service '\(service)' has \(offers.count) ports. "
            + "Select ports to intercept (TAB to select, ENTER to confirm):"
        return .several(
            Picker(
                prompt: "Select ports (TAB to toggle): ",
                header: header,
                items: offers.map { PickerItem($0.line) },
                multiple: true
            )
        )
    }

    /// Printed above the prompts of `workspacePort`.
    public static let mapping = "Map selected ports to workspace ports:"

    /// - Parameter refusal: why a valid port number still can't be used.
    public static func workspacePort(
        for port: PortOffer,
        refusal: @escaping @Sendable (UInt16) -> String? = { _ in nil }
    ) -> LinePrompt {
        LinePrompt(
            prompt: "  Service port \(port.text) → Workspace port [\(port.number)]: ",
            defaultAnswer: String(port.number),
            mistake: { answer in
                if let number = self.port(answer) { return refusal(number) }
                let said = answer.count > 20 ? "\(answer.prefix(20))…" : answer
                return "'\(said)' isn't a port number. Enter one between 1 and 65535."
            }
        )
    }

    /// Digits only: `+80` and `8 080` are mistakes.
    public static func port(_ answer: String) -> UInt16? {
        guard answer.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return nil }
        return UInt16(answer).flatMap { $0 > 0 ? $0 : nil }
    }

    public static func intercept(_ offers: [InterceptOffer]) -> Picker {
        Picker(
            prompt: "Select intercept to stop: ",
            header: nil,
            items: offers.map { PickerItem($0.line) },
            multiple: false
        )
    }
}
