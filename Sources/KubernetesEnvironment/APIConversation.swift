import HostSupport
import InterceptModel
import NIOCore
import NIOHTTP1
import NIOPosix

/// One request to the API server through a proxy's socket, and its answer. Each has a connection of its own: on a Unix socket
/// that costs a tenth of a millisecond, and the proxy keeps its connections to the API server by itself.
struct APIConversation: Sendable {
    /// The proxy's.
    let socket: String

    struct Request: Sendable {
        var method = HTTPMethod.GET
        /// The path with its query, escaped.
        var target: String
        /// With its content type.
        var body: (type: String, bytes: [UInt8])?

        init(_ path: String, _ query: [(String, String)]) {
            let words = query.map { "\(Self.escaped($0))=\(Self.escaped($1))" }
            self.target = words.isEmpty ? path : "\(path)?\(words.joined(separator: "&"))"
        }

        /// As RFC 3986 has it: all bytes but the unreserved ones.
        static func escaped(_ text: String) -> String {
            let digits = Array("0123456789ABCDEF".utf8)
            var bytes: [UInt8] = []
            for byte in text.utf8 {
                switch byte {
                case 0x41...0x5A, 0x61...0x7A, 0x30...0x39, 0x2D, 0x2E, 0x5F, 0x7E: bytes.append(byte)
                default: bytes += [0x25, digits[Int(byte >> 4)], digits[Int(byte & 15)]]
                }
            }
            return String(decoding: bytes, as: UTF8.self)
        }
    }

    struct Answer: Sendable {
        var code: Int
        var contentType: String
        /// As the server wrote its clock's time in the `Date` header.
        var date: String?
        var body: [UInt8]

        var isSuccess: Bool { (200...299).contains(self.code) }
    }

    private typealias Parts = NIOAsyncChannel<HTTPClientResponsePart, HTTPClientRequestPart>

    /// The whole answer, of whatever status.
    func answer(_ request: Request, bodyAtMost limit: Int) async throws -> Answer {
        try await self.converse(request) { parts in
            var answer: Answer?
            for try await part in parts {
                switch part {
                case .head(let head): answer = Answer(head)
                case .body(let bytes):
                    guard (answer?.body.count ?? 0) + bytes.readableBytes <= limit else {
                        throw APIFailure.tooLong(request.target)
                    }
                    answer?.body += bytes.readableBytesView
                case .end:
                    if let answer { return answer }
                }
            }
            throw APIFailure.cut
        }
    }

    /// The answer's lines as they come, without their line feeds; returns at its clean end.
    ///
    /// - Returns: the answer, if it isn't a success; nil after the last line of one.
    func lines(
        _ request: Request,
        lineAtMost limit: Int,
        _ onLine: (ArraySlice<UInt8>) async throws -> Void
    ) async throws -> Answer? {
        try await self.converse(request) { parts in
            var answer: Answer?
            var splitter = LineSplitter(limit: limit)
            for try await part in parts {
                switch part {
                case .head(let head): answer = Answer(head)
                case .body(let bytes):
                    guard answer?.isSuccess ?? false else {
                        let room = limit - (answer?.body.count ?? 0)
                        answer?.body += bytes.readableBytesView.prefix(room)
                        continue
                    }
                    for line in try splitter.lines(bytes.readableBytesView) { try await onLine(line) }
                case .end: return answer.flatMap { $0.isSuccess ? nil : $0 }
                }
            }
            throw APIFailure.cut
        }
    }

    private func converse<Value: Sendable>(
        _ request: Request,
        _ read: (NIOAsyncChannelInboundStream<HTTPClientResponsePart>) async throws -> Value
    ) async throws -> Value {
        let channel = try await self.connect()
        var headers: HTTPHeaders = ["host": "localhost", "accept": "application/json", "connection": "close"]
        if let body = request.body {
            headers.add(name: "content-type", value: body.type)
            headers.add(name: "content-length", value: "\(body.bytes.count)")
        }
        let head = HTTPRequestHead(version: .http1_1, method: request.method, uri: request.target, headers: headers)
        do {
            return try await channel.executeThenClose { inbound, outbound in
                // In one piece: a server may answer and close as soon as it has the last byte, and then `end` alone, without a byte
                // of its own, could no longer be written.
                let body = request.body.map { HTTPClientRequestPart.body(.byteBuffer(ByteBuffer(bytes: $0.bytes))) }
                try await outbound.write(contentsOf: [.head(head)] + [body].compactMap(\.self) + [.end(nil)])
                return try await read(inbound)
            }
        } catch let error as APIFailure {
            throw error
        } catch {
            try Task.checkCancellation()
            if error is IOError || error is ChannelError || error is HTTPParserError { throw APIFailure.cut }
            throw error
        }
    }

    private func connect() async throws -> Parts {
        do {
            return try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connect(unixDomainSocketPath: self.socket) { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHTTPClientHandlers()
                        return try Parts(wrappingChannelSynchronously: channel)
                    }
                }
        } catch {
            try Task.checkCancellation()
            throw APIFailure.cut
        }
    }
}

/// Makes lines of pieces.
struct LineSplitter {
    let limit: Int
    private var begun: [UInt8] = []

    init(limit: Int) { self.limit = limit }

    /// The lines that are complete with this piece, without their line feeds. Throws if one is longer than the limit.
    mutating func lines(_ piece: some Collection<UInt8>) throws -> [ArraySlice<UInt8>] {
        var lines: [ArraySlice<UInt8>] = []
        var rest = piece[...]
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
            self.begun += rest[..<end]
            guard self.begun.count <= self.limit else { throw APIFailure.lineTooLong }
            lines.append(self.begun[...])
            self.begun = []
            rest = rest[rest.index(after: end)...]
        }
        self.begun += rest
        guard self.begun.count <= self.limit else { throw APIFailure.lineTooLong }
        return lines
    }
}

extension APIConversation.Answer {
    /// Without its body yet.
    init(_ head: HTTPResponseHead) {
        self.init(
            code: Int(head.status.code),
            contentType: head.headers.first(name: "content-type") ?? "",
            date: head.headers.first(name: "date"),
            body: []
        )
    }
}
