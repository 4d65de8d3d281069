import FoundationEssentials
import Libc

/// The client's end of a conversation in JSON lines over a Unix socket. Its calls block, which suits the CLI.
public final class JSONLinesClient {
    private let descriptor: CInt
    private var buffer: [UInt8] = []
    private let path: String

    /// No valid server sends a longer line.
    public static let maxLine = 4 * 1_048_576

    /// nil if no process listens there.
    ///
    /// - Parameter milliseconds: how long connecting may take.
    public init?(path: String, within milliseconds: Int = LocalSocket.patience) throws(HostError) {
        guard let descriptor = try LocalSocket.connect(to: path, within: milliseconds) else { return nil }
        self.descriptor = descriptor
        self.path = path
    }

    /// - Parameters:
    ///   - descriptor: a connected socket, which is closed with this.
    ///   - name: what errors call it.
    public init(descriptor: CInt, name: String) {
        self.descriptor = descriptor
        self.path = name
    }

    deinit { close(self.descriptor) }

    /// The listening process, according to the kernel; it need not have sent anything.
    public var peer: Int32? { LocalSocket.peer(of: self.descriptor).map(\.pid).flatMap { $0 > 0 ? $0 : nil } }

    /// For poll(2), together with other descriptors.
    public var rawDescriptor: CInt { self.descriptor }

    public func send(_ message: some Encodable) throws {
        var bytes = Array(try JSONEncoder().encode(message))
        bytes.append(UInt8(ascii: "\n"))
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { systemSend(self.descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw HostError.last(self.path, "can't be written to") }
            rest.removeFirst(count)
        }
    }

    /// Shuts down sending: no more requests follow, and the server cancels those in progress.
    public func endSending() { shutdown(self.descriptor, CInt(SHUT_WR)) }

    public enum Received<Message> {
        case message(Message)
        /// The other end closed the connection.
        case ended
        /// Nothing came within the time given.
        case timedOut
        /// A signal came, or `interrupt` became readable.
        case interrupted
    }

    /// - Parameters:
    ///   - milliseconds: how long to wait; nil waits forever.
    ///   - interrupt: a descriptor that ends the wait when it becomes readable.
    public func receive<Message: Decodable>(
        _ type: Message.Type,
        within milliseconds: Int? = nil,
        unless interrupt: CInt? = nil
    ) throws -> Received<Message> {
        let until = milliseconds.map { Steady.milliseconds + Int64($0) }
        while true {
            if let end = self.buffer.firstIndex(of: UInt8(ascii: "\n")) {
                let line = self.buffer[..<end]
                self.buffer.removeSubrange(...end)
                return .message(try JSONDecoder().decode(type, from: Data(line)))
            }
            guard self.buffer.count <= Self.maxLine else { throw HostError(self.path, code: EMSGSIZE) }
            var waits = [pollfd(fd: self.descriptor, events: Int16(POLLIN), revents: 0)]
            if let interrupt { waits.append(pollfd(fd: interrupt, events: Int16(POLLIN), revents: 0)) }
            let rest = until.map { max(0, $0 - Steady.milliseconds) } ?? -1
            let ready = poll(&waits, nfds_t(waits.count), CInt(clamping: rest))
            if ready < 0, errno == EINTR { continue }
            guard ready >= 0 else { throw HostError.last(self.path, "can't be waited for") }
            if ready == 0 { return .timedOut }
            if waits.count > 1, waits[1].revents != 0 { return .interrupted }
            guard waits[0].revents != 0 else { continue }
            var piece = [UInt8](repeating: 0, count: 65_536)
            let count = piece.withUnsafeMutableBytes { recv(self.descriptor, $0.baseAddress, $0.count, 0) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return .ended }
            self.buffer += piece[..<count]
        }
    }
}

/// `send` is a method's name above. A closed connection is an error, not a signal.
private func systemSend(_ descriptor: CInt, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    send(descriptor, bytes, count, CInt(MSG_NOSIGNAL))
}
