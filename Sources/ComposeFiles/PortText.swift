import Environments
import InterceptModel
import Libc

/// Parses ports and addresses of a compose file. A failure's text says what is wrong and how to fix it; the caller adds the
/// position.
enum PortText {
    struct Failure: Error, Equatable {
        var text: String
        init(_ text: String) { self.text = text }
    }

    /// `8080:21090`, `127.0.0.1:8080:21090`, `[::1]:8080:21090`, each optionally followed by `/tcp` or `/udp`.
    static func short(_ text: String) throws(Failure) -> ComposePort {
        var body = text[...]
        var transport = Transport.tcp
        if let slash = text.lastIndex(of: "/") {
            body = text[..<slash]
            transport = try Self.transport(String(text[text.index(after: slash)...]))
        }
        var host: String?
        if body.hasPrefix("[") {
            guard let end = body.firstIndex(of: "]"), body[body.index(after: end)...].hasPrefix(":") else {
                throw Failure("\(text.quoted) isn't a port. Write [ADDRESS]:PUBLISHED:TARGET.")
            }
            host = String(body[body.index(after: body.startIndex)..<end])
            body = body[body.index(after: end)...].dropFirst()
        }
        var parts = body.split(separator: ":", maxSplits: 4, omittingEmptySubsequences: false).map(String.init)
        if host == nil, parts.count == 3 { host = parts.removeFirst() }
        guard parts.count <= 2, let last = parts.last else {
            throw Failure(
                "\(text.quoted) isn't a port. Write PUBLISHED:TARGET or ADDRESS:PUBLISHED:TARGET, an IPv6 address in [ ]."
            )
        }
        let target = try Self.number(last, "target")
        guard parts.count == 2, let first = parts.first, !first.isEmpty else {
            throw Self.publishedMissing(target: target, in: text.quoted)
        }
        let published = try Self.number(first, "published")
        return ComposePort(published: published, target: target, hostAddress: try Self.host(host), transport: transport)
    }

    static func number(_ text: String, _ what: String) throws(Failure) -> UInt16 {
        if text.contains("-"), text.utf8.allSatisfy({ $0.isDigit || $0 == UInt8(ascii: "-") }), text.utf8.first != 0x2D
        {
            throw Failure(
                "\(text.quoted) is a range of ports, which this version doesn't have. Write each on a line of its own."
            )
        }
        guard !text.isEmpty, text.utf8.allSatisfy(\.isDigit) else {
            throw Failure("the \(what) port \(text.quoted) isn't a number. Write one from 1 to 65535.")
        }
        if let number = UInt16(text) {
            if number > 0 { return number }
            if what == "published" {
                throw Failure("the published port 0 would be another one each time. Write a number from 1 to 65535.")
            }
        }
        throw Failure("the \(what) port \(text.quoted) is out of range. Write a number from 1 to 65535.")
    }

    static func publishedMissing(target: UInt16, in text: String) -> Failure {
        Failure(
            "\(text) names no published port. Write \"\(Self.other(than: target)):\(target)\", or another for clients to use."
        )
    }

    static func transport(_ text: String) throws(Failure) -> Transport {
        guard let transport = Transport(rawValue: text.lowercased()) else {
            throw Failure("\(text.quoted) isn't a protocol of ports. Write 'tcp' or 'udp'.")
        }
        return transport
    }

    /// A similar number, to suggest in a message: 18080 for 8080.
    static func other(than port: UInt16) -> UInt16 { port > 55_535 ? port - 10_000 : port + 10_000 }

    static func host(_ text: String?) throws(Failure) -> String {
        guard let text, !text.isEmpty else { return "127.0.0.1" }
        var address4 = in_addr()
        var address6 = in6_addr()
        guard !text.contains("\0"),
            inet_pton(AF_INET, text, &address4) == 1 || inet_pton(AF_INET6, text, &address6) == 1
        else {
            throw Failure(
                "\(text.quoted) isn't an IP address. Write one of this machine's, such as 127.0.0.1 or 0.0.0.0."
            )
        }
        return text
    }
}
