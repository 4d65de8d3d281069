import Libc
public import Noise
public import Tunnel

/// The last timestamp that a key has sent to one responder, stored for the next program with the same key (PROTOCOL, payloads).
/// A responder drops initiations that aren't newer than the last one: without the file, all of them once the clock was set back.
///
/// The file is one line of text, overwritten before each timestamp is sent. It isn't synced to the disk: a power cut can lose
/// only the last seconds.
public final class TimestampFile {
    private let descriptor: CInt
    /// What was read from the file, or was last passed to `store`; nil: the file had nothing valid.
    public private(set) var last: TAI64N?

    /// Opens this responder's file in a folder of this user's, which is created if needed.
    ///
    /// - Throws: `Failure` if there can be no such file. The tunnel works without it, unless the clock is set back.
    public init(folder: String, responder: PublicKey) throws(Failure) {
        if mkdir(folder, 0o700) != 0, errno != EEXIST { throw Failure(path: folder, code: errno) }
        Self.prune(folder)
        let path = "\(folder)/\(Self.name(responder))"
        let descriptor = systemOpen(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0o600)
        guard descriptor >= 0 else { throw Failure(path: path, code: errno) }
        self.descriptor = descriptor
        self.last = Self.read(descriptor)
    }

    deinit { _ = close(self.descriptor) }

    public struct Failure: Error, CustomStringConvertible {
        let path: String
        let code: CInt
        public var description: String { "'\(self.path)' can't be written: \(String(cString: strerror(self.code)))" }
    }

    /// A failed write is ignored: it is as if there were no file, and matters only to the next program.
    public func store(_ timestamp: TAI64N) {
        self.last = timestamp
        // Another program with this key may have sent a later one.
        if let other = Self.read(self.descriptor), other >= timestamp { return }
        let line = Self.line(timestamp)
        _ = line.withUnsafeBytes { pwrite(self.descriptor, $0.baseAddress, $0.count, 0) }
    }

    // MARK: The line

    /// Seconds since 1970 and nanoseconds, always of the same length.
    private static func line(_ timestamp: TAI64N) -> [UInt8] {
        let seconds = String(max(0, timestamp.unixSeconds))
        let fraction = String(timestamp.nanoseconds)
        func zeros(_ count: Int) -> String { String(repeating: "0", count: max(0, count)) }
        return Array("\(zeros(20 - seconds.count))\(seconds).\(zeros(9 - fraction.count))\(fraction)\n".utf8)
    }

    private static let lineSize = 31

    private static func read(_ descriptor: CInt) -> TAI64N? {
        var bytes = [UInt8](repeating: 0, count: Self.lineSize)
        let count = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, 0) }
        guard count == Self.lineSize, bytes.last == UInt8(ascii: "\n"), bytes[20] == UInt8(ascii: "."),
            let seconds = Self.number(bytes[..<20]), let nanoseconds = Self.number(bytes[21..<30]),
            let unixSeconds = Int64(exactly: seconds), unixSeconds <= Self.greatest, nanoseconds <= 999_999_999
        else { return nil }
        return TAI64N(unixSeconds: unixSeconds, nanoseconds: UInt32(nanoseconds))
    }

    /// No clock is past the year 9999: such a value means a damaged file, and would lock this key out.
    private static let greatest: Int64 = 253_402_300_799

    private static func number(_ digits: ArraySlice<UInt8>) -> UInt64? {
        guard digits.allSatisfy({ UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }) else { return nil }
        return UInt64(String(decoding: digits, as: UTF8.self))
    }

    // MARK: The folder

    private static func name(_ responder: PublicKey) -> String {
        String(
            responder.base64.compactMap { character -> Character? in
                switch character {
                case "/": "_"
                case "+": "-"
                case "=": nil
                default: character
                }
            }
        )
    }

    /// New sidecars have new keys: beyond this number, the oldest files are deleted. †
    private static let filesAtMost = 256

    private static func prune(_ folder: String) {
        guard let directory = opendir(folder) else { return }
        defer { closedir(directory) }
        var files: [(name: String, at: Int)] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            var status = stat()
            // Our files have names of this length; others are left alone.
            guard name.utf8.count == 43, lstat("\(folder)/\(name)", &status) == 0, status.st_mode & S_IFMT == S_IFREG
            else { continue }
            files.append((name, status.st_mtim.tv_sec))
        }
        guard files.count > Self.filesAtMost else { return }
        files.sort { $0.at < $1.at }
        for file in files.dropLast(Self.filesAtMost) { unlink("\(folder)/\(file.name)") }
    }
}
