import Noise

/// Reads and writes files with secret keys, in base64 like `wg`.
///
/// A file is read only if it is a regular file of this user or root, neither a symbolic nor a hard link, and not accessible
/// to others (protocol §2). The key goes from read(2) into locked memory and nowhere else.
public enum KeyFile {
    public static func readPrivateKey(at path: String) throws(KeyFileError) -> StaticKeyPair {
        try read(path, .privateKey) { StaticKeyPair(base64: $0) }
    }

    public static func readPresharedKey(at path: String) throws(KeyFileError) -> PresharedKey {
        try read(path, .presharedKey) { PresharedKey(base64: $0) }
    }

    /// Writes a new file with mode 0600. An existing file is never overwritten.
    public static func write(_ keyPair: StaticKeyPair, to path: String) throws(KeyFileError) {
        try NewFile.write(keyPair.privateKeyBase64Line(), to: path)
    }

    /// As above.
    public static func write(_ presharedKey: PresharedKey, to path: String) throws(KeyFileError) {
        try NewFile.write(presharedKey.base64Line(), to: path)
    }

    private static func read<Key>(
        _ path: String,
        _ purpose: FilePurpose,
        _ parse: (RawSpan) -> Key?
    ) throws(KeyFileError) -> Key {
        let file = try CheckedFile.open(path, for: purpose)
        switch try KeyText.read({ bytes throws(KeyFileError) in try file.read(into: &bytes) }) {
        case .tooLong:
            throw KeyFileError(path: path, reason: .tooLong(limit: KeyText.limit, purpose))
        case .text(let text, let count):
            guard let key = KeyText.parse(text, count: count, parse) else {
                throw KeyFileError(path: path, reason: .notAKey(purpose))
            }
            return key
        }
    }
}
