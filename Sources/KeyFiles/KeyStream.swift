import Libc
import Noise

/// Keys on standard input and output, as in `wg genkey | wg pubkey`.
public enum KeyStream {
    public enum Failure: Error, Equatable, Sendable, CustomStringConvertible {
        case notAPrivateKey
        case unreadable(SystemError)
        case unwritable(SystemError)

        public var description: String {
            switch self {
            case .notAPrivateKey:
                "what came in is not a private key. Give it 44 characters of base64, as 'kl genkey' prints them."
            case .unreadable(let error):
                "the key can't be read: \(error). Check what standard input is connected to."
            case .unwritable(let error):
                "the key can't be written: \(error). Check what standard output is connected to."
            }
        }
    }

    /// Reads to the end of the stream, or until it is too long for a key.
    public static func readPrivateKey(from descriptor: CInt) throws(Failure) -> StaticKeyPair {
        do {
            switch try KeyText.read({ bytes throws(SystemError) in
                try DescriptorIO.read(from: descriptor, into: &bytes)
            }) {
            case .tooLong:
                break
            case .text(let text, let count):
                if let key = KeyText.parse(text, count: count, { StaticKeyPair(base64: $0) }) { return key }
            }
        } catch {
            throw .unreadable(error)
        }
        throw .notAPrivateKey
    }

    /// Writes a key's line directly from its memory, without a copy.
    public static func write(_ line: RawSpan, to descriptor: CInt) throws(Failure) {
        do {
            try DescriptorIO.write(line, to: descriptor)
        } catch {
            throw .unwritable(error)
        }
    }

    /// Whether `descriptor` is a file that other users can access: `KeyFile` would refuse a key redirected there.
    public static func isOpenToOthers(_ descriptor: CInt) -> Bool {
        var status = stat()
        guard fstat(descriptor, &status) == 0, UInt32(status.st_mode) & UInt32(S_IFMT) == UInt32(S_IFREG) else {
            return false
        }
        return UInt32(status.st_mode) & FilePurpose.privateKey.forbiddenMode != 0
    }
}
