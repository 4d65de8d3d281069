/// Answers questions: the user at the terminal, or a test.
public protocol Respondent {
    mutating func pick(_ picker: Picker) throws -> PickerResult
    mutating func ask(_ prompt: LinePrompt) throws -> PromptResult
    mutating func hear(_ line: String)
}

/// The user at the terminal.
public struct TerminalRespondent: Respondent {
    public init() {}

    public func pick(_ picker: Picker) throws -> PickerResult { try Terminal.pick(picker) }
    public func ask(_ prompt: LinePrompt) throws -> PromptResult { try Terminal.ask(prompt) }
    public func hear(_ line: String) { Terminal.say(line) }
}

/// Asks a command's questions, one after the other.
public struct Interview<Person: Respondent> {
    public var person: Person

    public init(_ person: Person) {
        self.person = person
    }

    public mutating func environment(_ offers: [EnvironmentOffer]) throws -> DialogueResult<EnvironmentOffer> {
        try self.one(of: offers, Questions.environment(offers))
    }

    public mutating func service(_ offers: [ServiceOffer]) throws -> DialogueResult<ServiceOffer> {
        try self.one(of: offers, Questions.service(offers))
    }

    public mutating func intercept(_ offers: [InterceptOffer]) throws -> DialogueResult<InterceptOffer> {
        try self.one(of: offers, Questions.intercept(offers))
    }

    /// Asks which ports to intercept, and the local port for each. At least one is chosen, unless the service has none:
    /// then the user is told why.
    ///
    /// - Parameter refusal: why a service's port can't be mapped to a local port; nil if it can.
    public mutating func ports(
        of service: String,
        _ offers: [PortOffer],
        refusal: @escaping @Sendable (PortOffer, UInt16) -> String? = { _, _ in nil }
    ) throws -> DialogueResult<[PortAnswer]> {
        var chosen: [PortOffer] = []
        switch Questions.ports(of: service, offers) {
        case .none(let sentence):
            self.person.hear(sentence)
            return .cancelled
        case .only(let port, let line):
            self.person.hear(line)
            chosen = [port]
        case .several(let picker):
            switch try self.person.pick(picker) {
            case .chosen(let indices): chosen = indices.filter(offers.indices.contains).map { offers[$0] }
            case .cancelled: return .cancelled
            case .interrupted: return .interrupted
            }
        }

        self.person.hear(Questions.mapping)
        var answers: [PortAnswer] = []
        for port in chosen {
            switch try self.person.ask(Questions.workspacePort(for: port) { refusal(port, $0) }) {
            case .chosen(let text):
                guard let number = Questions.port(text) else { return .cancelled }
                answers.append(PortAnswer(service: port, workspace: number))
            case .cancelled: return .cancelled
            case .interrupted: return .interrupted
            }
        }
        return .chosen(answers)
    }

    private mutating func one<Offer>(of offers: [Offer], _ picker: Picker) throws -> DialogueResult<Offer> {
        switch try self.person.pick(picker) {
        case .chosen(let indices):
            guard let index = indices.first, offers.indices.contains(index) else { return .cancelled }
            return .chosen(offers[index])
        case .cancelled: return .cancelled
        case .interrupted: return .interrupted
        }
    }
}
