import CSodium

/// libsodium's initialisation, which must come before any other call to it.
///
/// Code that calls libsodium first calls `initialize()` itself, so a program need not do so. It may still do it early, to
/// learn of a failure at its start rather than at the first handshake.
public enum Sodium {
    /// Lazy and thread-safe, as every `static let` is.
    private static let isReady = sodium_init() >= 0

    /// Without libsodium no key can be made and there is no fallback, so the process ends.
    public static func initialize() {
        precondition(isReady, "libsodium could not be initialised")
    }
}
