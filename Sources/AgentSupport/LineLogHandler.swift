public import Logging

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// One line a record on standard error: for a person, or as JSON for a program.
public struct LineLogHandler: LogHandler {
    public enum Format: String, CaseIterable, Sendable {
        case text
        case json
    }

    public var metadata: Logger.Metadata = [:]
    public var logLevel: Logger.Level
    private let label: String
    private let format: Format

    public init(label: String, format: Format, level: Logger.Level) {
        self.label = label
        self.format = format
        self.logLevel = level
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { self.metadata[key] }
        set { self.metadata[key] = newValue }
    }

    public func log(event: LogEvent) {
        let metadata = self.metadata.merging(event.metadata ?? [:]) { $1 }
        let pairs = metadata.sorted { $0.key < $1.key }.map { ($0.key, "\($0.value)") }
        switch self.format {
        case .text:
            var line =
                "\(Self.timestamp()) \(Self.padded(event.level)) \(self.label): \(Self.oneLine("\(event.message)"))"
            for (key, value) in pairs { line += " \(key)=\(Self.quotedIfNeeded(value))" }
            Console.write(line + "\n", to: STDERR_FILENO)
        case .json:
            var fields = [
                ("time", Self.timestamp()), ("level", event.level.rawValue), ("program", self.label),
                ("message", "\(event.message)"),
            ]
            fields += pairs
            Console.write(JSONLine.object(fields.map { ($0.0, .string($0.1)) }) + "\n", to: STDERR_FILENO)
        }
    }

    private static func padded(_ level: Logger.Level) -> String {
        let name = level.rawValue
        return name + String(repeating: " ", count: max(0, 7 - name.count))
    }

    private static func oneLine(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.filter { $0.properties.generalCategory != .control }))
    }

    private static func quotedIfNeeded(_ value: String) -> String {
        let value = Self.oneLine(value)
        return value.contains(" ") || value.isEmpty ? "\"\(value)\"" : value
    }

    /// UTC with milliseconds, RFC 3339.
    private static func timestamp() -> String {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        var parts = tm()
        gmtime_r(&time.tv_sec, &parts)
        func two(_ value: CInt) -> String { value < 10 ? "0\(value)" : "\(value)" }
        let millis = "\(1_000 + time.tv_nsec / 1_000_000)".dropFirst()
        return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
            + "T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)).\(millis)Z"
    }
}
