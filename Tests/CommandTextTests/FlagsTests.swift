import CommandText
import InterceptModel
import Testing

@Suite struct PortMappingTests {
    @Test(arguments: [
        ("8080", "8080:127.0.0.1:8080"), ("8080:3000", "8080:127.0.0.1:3000"), ("1:65535", "1:127.0.0.1:65535"),
        ("8080:db:3000", "8080:db:3000"), ("8080:10.0.0.1:3000", "8080:10.0.0.1:3000"),
        ("8080:[::1]:3000", "8080:[::1]:3000"), ("53:5353/udp", "53:127.0.0.1:5353/udp"),
        ("53/udp", "53:127.0.0.1:53/udp"), ("53:[fe80::1]:5353/udp", "53:[fe80::1]:5353/udp"),
        ("8080:3000/tcp", "8080:127.0.0.1:3000"), ("0080:3000", "80:127.0.0.1:3000"),
    ])
    func `a mapping`(text: String, full: String) throws {
        let mapping = try PortMapping(text)
        #expect(mapping.description == full)
        #expect(try PortMapping(full) == mapping)
        #expect(mapping.port.transport == (text.hasSuffix("/udp") ? .udp : .tcp))
    }

    @Test(arguments: [
        "", ":", "::", "0", "65536", "99999999999999999999", "-1", "+1", "1.5", " 80", "80 ", "0x50", "http", "８０",
        "8080:", ":3000", "8080:0", "8080:65536", "8080::3000", "8080:host:", "8080:host:0", "8080:a:b:c",
        "8080:::1:3000", "8080:[::1]", "8080:[::1:3000", "8080:[::1]3000", "8080:[]:3000", "8080/", "8080/sctp",
        "8080/UDP", "8080:3000/udp/tcp", "/udp", "8080:3000:4000:5000",
    ])
    func `no mapping`(text: String) {
        do {
            _ = try PortMapping(text)
            Issue.record("'\(text)' was taken")
        } catch {
            expectSentences(error, about: text)
        }
    }

    @Test func `two for the same port`() throws {
        func check(_ texts: String...) throws(FlagError) {
            var mappings: [PortMapping] = []
            for text in texts { mappings.append(try PortMapping(text)) }
            try Flags.checkDistinct(mappings)
        }
        try check()
        try check("8080:3000", "8081:3000", "8080:3000/udp")
        #expect(
            throws: FlagError(
                "'8080:127.0.0.1:3000' and '8080:db:4000' are for the same port of the service. Give each port once."
            )
        ) { try check("8080:3000", "9090", "8080:db:4000") }
        #expect(throws: FlagError.self) { try check("53/udp", "53/udp") }
    }

    @Test func `too many of them`() throws {
        let mappings = try (1...1_025).map { try PortMapping("\($0)") }
        try Flags.checkDistinct(Array(mappings.dropLast()))
        #expect(throws: FlagError("1025 ports are too many. At most 1024.")) { try Flags.checkDistinct(mappings) }
    }
}

@Suite struct ServicePortTests {
    @Test(arguments: [
        ("8080", "8080:127.0.0.1:8080"), ("8080:127.0.0.1:21090", "8080:127.0.0.1:21090"),
        ("8080:[::1]:9090", "8080:[::1]:9090"), ("1:original.svc:65535", "1:original.svc:65535"),
        ("53/udp", "53:127.0.0.1:53/udp"), ("53:[::1]:5353/udp", "53:[::1]:5353/udp"),
        ("80:127.0.0.1:81/tcp", "80:127.0.0.1:81"),
    ])
    func `a service port`(text: String, full: String) throws {
        let port = try ServedPort(text)
        #expect(port.description == full)
        #expect(try ServedPort(full) == port)
    }

    @Test(arguments: [
        "", "0", "65536", "http", "8080:9090", "8080::9090", "8080:host:", "8080:host:0", "8080:::1:9090", "8080/sctp",
        "8080/",
        "8080:[::1", "8080:[::1]:x",
    ])
    func `no service port`(text: String) {
        do {
            _ = try ServedPort(text)
            Issue.record("'\(text)' was taken")
        } catch {
            expectSentences(error, about: text)
        }
    }

    @Test func `two for the same port`() throws {
        try Flags.checkDistinct([try ServedPort("80"), try ServedPort("81:127.0.0.1:80")])
        try Flags.checkDistinct([try ServedPort("80"), try ServedPort("80/udp")])
        #expect(throws: FlagError.self) {
            try Flags.checkDistinct([try ServedPort("80"), try ServedPort("80:127.0.0.1:81")])
        }
    }
}

@Suite struct EndpointTests {
    @Test(arguments: [
        ("127.0.0.1:51820", "127.0.0.1", 51_820), ("[::1]:1", "::1", 1), ("localhost:65535", "localhost", 65_535),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
    ])
    func `an endpoint`(text: String, host: String, port: UInt16) throws {
        let endpoint = try Flags.endpoint(text)
        #expect(endpoint == Endpoint(host: host, port: port))
        #expect(endpoint.description == text)
    }

    @Test(arguments: [
        "", ":", "host", "host:", ":80", "host:0", "host:65536", "::1:80", "[::1]", "[::1]:", "[]:80", "a:b:1",
    ])
    func `no endpoint`(text: String) {
        do {
            _ = try Flags.endpoint(text)
            Issue.record("'\(text)' was taken")
        } catch {
            expectSentences(error, about: text)
        }
    }

    @Test func `port 0 where any will do`() throws {
        #expect(try Flags.endpoint("[::1]:0", zeroAllowed: true) == Endpoint(host: "::1", port: 0))
        #expect(throws: FlagError.self) { try Flags.endpoint("[::1]:0") }
        #expect(throws: FlagError.self) { try Flags.endpoint(":0", zeroAllowed: true) }
    }
}

@Suite struct SidecarAddressTests {
    @Test func `all carriers are named where one is wrong`() {
        #expect(CarrierChoice.names == "auto, udp, tcp or exec")
        let error = #expect(throws: FlagError.self) { try CarrierChoice(flag: "pigeon") }
        #expect(error?.description == "'pigeon' isn't a carrier. Write auto, udp, tcp or exec.")
    }

    @Test func `each carrier`() throws {
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        let tcp = try SidecarAddress("\(key)@tcp:127.0.0.1:51820")
        #expect(tcp.publicKey == key)
        #expect(tcp.carrier == .tcp(Endpoint(host: "127.0.0.1", port: 51_820)))
        #expect(try SidecarAddress("\(key)@udp:[::1]:1").carrier == .udp(Endpoint(host: "::1", port: 1)))
        #expect(
            try SidecarAddress("\(key)@exec:kubectl exec -i a@b -- kl-sidecar dial").carrier
                == .exec(["kubectl", "exec", "-i", "a@b", "--", "kl-sidecar", "dial"])
        )
    }

    @Test(arguments: [
        "", "@", "key", "key@", "key@tcp", "key@tcp:", "key@tcp:host", "key@tcp:host:0", "key@udp:::1:80",
        "@tcp:127.0.0.1:1", "key@exec:", "key@exec:  ", "key@exec:''", "key@exec:a 'b", "key@exec:a \\",
        "key@exec:a | b", "key@TCP:127.0.0.1:1", "key@quic:127.0.0.1:1",
        "tcp:127.0.0.1:51820",
    ])
    func `no address`(text: String) {
        do {
            _ = try SidecarAddress(text)
            Issue.record("'\(text)' was taken")
        } catch {
            expectSentences(error)
        }
    }
}

@Suite struct DurationTests {
    @Test(arguments: [
        ("0s", 0), ("500ms", 500), ("6s", 6_000), ("10m", 600_000), ("1h", 3_600_000), ("168h", 604_800_000),
        ("007s", 7_000),
    ])
    func `a length of time`(text: String, milliseconds: Int64) throws {
        #expect(try Flags.milliseconds(text) == milliseconds)
    }

    @Test(arguments: [
        "", "s", "ms", "10", "-1s", "+1s", "1.5s", "1 s", " 1s", "1S", "1d", "1µs", "1h30m", "169h", "604801s",
        "99999999999999999999s", "1000000001ms", "9223372036854775807h", "５s",
    ])
    func `no length of time`(text: String) {
        do {
            _ = try Flags.milliseconds(text)
            Issue.record("'\(text)' was taken")
        } catch {
            expectSentences(error, about: text)
        }
    }
}

/// What is wrong, and what to do about it. `text` is what was given, or the part of it that is wrong.
private func expectSentences(_ error: FlagError, about text: String = "") {
    #expect(error.description.hasPrefix("'"))
    #expect(error.description.hasSuffix("."))
    #expect(error.description.contains(". "))
    let named = error.description.split(separator: "'", maxSplits: 2, omittingEmptySubsequences: false)
    if named.count > 1 { #expect(text.isEmpty || text.contains(named[1]) || named[1].isEmpty) }
}

@Suite struct SizeTests {
    @Test(arguments: [("32m", 33_554_432), ("1g", 1_073_741_824), ("0m", 0), ("007m", 7_340_032)])
    func `a size`(text: String, bytes: Int) throws { #expect(try Flags.bytes(text) == bytes) }

    @Test(arguments: [
        "", "m", "32", "-1m", "+1m", "1.5m", "1 m", "32M", "32k", "1000001m", "99999999999999999999g", "５m",
    ])
    func `no size`(text: String) {
        do {
            _ = try Flags.bytes(text)
            Issue.record("'\(text)' was taken")
        } catch {
            expectSentences(error, about: text)
        }
    }
}
