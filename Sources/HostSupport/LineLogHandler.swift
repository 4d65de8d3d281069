import InterceptModel
import Libc
public import Logging

/// Writes one line a record to standard error: as text for a person, or as JSON for a program.
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
        let line = self.line(level: event.level, "\(event.message)", event.metadata ?? [:], at: .now)
        Console.write(line + "\n", to: STDERR_FILENO)
    }

    func line(
        level: Logger.Level,
        _ message: String,
        _ metadata: Logger.Metadata,
        at time: UTCTime
    ) -> String {
        let pairs = self.metadata.merging(metadata) { $1 }
            .sorted { $0.key < $1.key }
            .map { ($0.key, "\($0.value)") }
        switch self.format {
        case .text:
            let start = "\(time.rfc3339WithMilliseconds) \(Self.padded(level)) \(self.label): \(Self.oneLine(message))"
            return pairs.reduce(into: start) { $0 += " \($1.0)=\(Self.quotedIfNeeded($1.1))" }
        case .json:
            let own = [
                ("time", time.rfc3339WithMilliseconds), ("level", level.rawValue), ("program", self.label),
                ("message", message),
            ]
            // A key must not occur twice in an object.
            let others = pairs.map { pair in (own.contains { $0.0 == pair.0 } ? pair.0 + "_" : pair.0, pair.1) }
            return JSONLine.object((own + others).map { ($0.0, .string($0.1)) })
        }
    }

    private static func padded(_ level: Logger.Level) -> String {
        let name = level.rawValue
        return name + String(repeating: " ", count: max(0, 7 - name.count))
    }

    /// A line break or tab becomes a space; other invisible characters, and those that change the writing direction, are
    /// left out.
    private static func oneLine(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            if scalar.isVisible {
                result.unicodeScalars.append(scalar)
            } else if scalar.properties.isWhitespace {
                result.append(" ")
            }
        }
        return result
    }

    /// Quoted so that a value can't be mistaken for its end and another key.
    private static func quotedIfNeeded(_ value: String) -> String {
        let value = Self.oneLine(value)
        let isPlain = value.unicodeScalars.allSatisfy { !$0.properties.isWhitespace && $0 != "\"" }
        guard !isPlain || value.isEmpty else { return value }
        let escaped = value.unicodeScalars.map { $0 == "\"" || $0 == "\\" ? "\\\($0)" : "\($0)" }.joined()
        return "\"\(escaped)\""
    }
}
