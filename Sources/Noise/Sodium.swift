import CSodium

/// libsodium's start, which has to come before any other call of it.
///
/// Whatever first touches libsodium calls `initialize()` itself; a program need not remember to. It may do so early
/// all the same, to find out at its start rather than at the first handshake.
public enum Sodium {
    /// Lazy and thread-safe, as every `static let` is.
    private static let isReady = sodium_init() >= 0

    /// Without libsodium there is no key to be had and nothing to fall back to, so the process ends.
    public static func initialize() {
        precondition(isReady, "libsodium could not be initialised")
    }
}
