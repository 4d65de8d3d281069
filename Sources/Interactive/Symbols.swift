/// The signs used beside text.
public struct Symbols: Equatable, Sendable {
    /// Marks the row that Enter chooses.
    public var current: String
    /// Marks a row that was chosen with Tab.
    public var toggled: String
    /// Marks where text was cut.
    public var ellipsis: String
    public var done: String
    public var failed: String
    /// The pictures of the spinner.
    public var turning: [String]

    public static let unicode = Symbols(
        current: "▌",
        toggled: "●",
        ellipsis: "…",
        done: "✓",
        failed: "✗",
        turning: ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"]
    )

    public static let ascii = Symbols(
        current: ">",
        toggled: "*",
        ellipsis: "~",
        done: "+",
        failed: "x",
        turning: ["|", "/", "-", "\\"]
    )

    /// Terminals show UTF-8 today, even if the locale doesn't say so. Exceptions are the Linux console, whose fonts lack
    /// most of it, and locales that name another character set.
    public init(environment: [String: String]) {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].lazy.compactMap { environment[$0] }.first { !$0.isEmpty } ?? ""
        let set = locale.split(separator: ".").dropFirst().first?.split(separator: "@").first?.lowercased() ?? "utf-8"
        let isUnicode = set == "utf-8" || set == "utf8"
        self = isUnicode && environment["TERM"] != "linux" ? .unicode : .ascii
    }

    init(current: String, toggled: String, ellipsis: String, done: String, failed: String, turning: [String]) {
        self.current = current
        self.toggled = toggled
        self.ellipsis = ellipsis
        self.done = done
        self.failed = failed
        self.turning = turning
    }
}
