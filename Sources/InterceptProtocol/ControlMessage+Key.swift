extension ControlMessage {
    enum Key: String, CodingKey {
        case type
        case generation
        case workspace
        case ports
        case absent
        case service
        case transport
        case onUnavailable
        case drainSeconds
        case probes
        case proxyProtocol
        case takeover
        case code
        case reason
        case holder
        case since
        case open
        case total
        case passed
        case bytesIn
        case bytesOut
        case behind
        case id
        case answers
        case answer
    }
}
