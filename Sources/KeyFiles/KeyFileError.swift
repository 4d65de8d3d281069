/// Why a key file wasn't read or written: one sentence says what is wrong, another what to do.
public struct KeyFileError: Error, Equatable, Sendable {
    public enum Reason: Equatable, Sendable {
        case missing
        case alreadyExists
        case symbolicLink
        case notRegular(FileKind)
        case foreignOwner(UInt32)
        /// Other users have access that they must not have: to read a secret, or to change a list of peers.
        case looseMode(UInt32, FilePurpose)
        case hardLinks(Int)
        case tooLong(limit: Int, FilePurpose)
        case notAKey(FilePurpose)
        case line(Int, LineProblem)
        case system(SystemError, during: Operation)
    }

    public enum LineProblem: Equatable, Sendable {
        case notAPublicKey
        /// The words behind the key are wrong; with what to write there.
        case notAnAdmission(String)
        case keyWithOtherRights
        case tooManyKeys(limit: Int)
    }

    public enum Operation: String, Equatable, Sendable {
        case open = "opened"
        case read = "read"
        case create = "created"
        case write = "written"
    }

    public let path: String
    public let reason: Reason

    public init(path: String, reason: Reason) {
        self.path = path
        self.reason = reason
    }
}

/// A file's content, which decides what other users may do with the file.
public enum FilePurpose: Equatable, Sendable {
    case privateKey
    case presharedKey
    case peers

    var isSecret: Bool { self != .peers }

    /// Mode bits that a file for this purpose must not have.
    var forbiddenMode: UInt32 { isSecret ? 0o077 : 0o022 }
}

/// What a path can name instead of a regular file.
public enum FileKind: String, Equatable, Sendable {
    case directory = "a directory"
    case fifo = "a named pipe"
    case socket = "a socket"
    case device = "a device"
    case other = "something else"
}

extension KeyFileError: CustomStringConvertible {
    public var description: String { "\(self.what). \(self.remedy)" }

    /// What is wrong, as a clause.
    public var what: String { self.sentences.what }

    /// What to do, as a sentence.
    public var remedy: String { self.sentences.remedy }

    private var sentences: (what: String, remedy: String) {
        switch self.reason {
        case .missing:
            (
                "'\(path)' doesn't exist",
                "Check the name, or make the file first: kl genkey and kl genpsk print keys."
            )
        case .alreadyExists:
            (
                "'\(path)' exists already, and a key is never written over",
                "Choose another name, or remove it first."
            )
        case .symbolicLink:
            ("'\(path)' is a symbolic link, and a key is read from no link", "Name the file itself.")
        case .notRegular(let kind):
            ("'\(path)' is \(kind.rawValue), not a regular file", "Name a file that holds what is needed.")
        case .foreignOwner(let owner):
            (
                "'\(path)' belongs to user \(owner), who is neither this user nor root",
                "Copy it to a file of your own."
            )
        case .looseMode(let mode, let purpose) where purpose.isSecret:
            (
                "'\(path)' is open to other users (mode \(octal(mode)))",
                "Close it with 'chmod 600', and make a new key if others could have read this one."
            )
        case .looseMode(let mode, _):
            (
                "'\(path)' can be changed by other users (mode \(octal(mode)))",
                "Take that from them with 'chmod go-w'."
            )
        case .hardLinks(let count):
            (
                "'\(path)' has \(count) hard links, so its key is in reach under other names too",
                "Copy it to a file of its own."
            )
        case .tooLong(let limit, let purpose):
            (
                "'\(path)' has more than \(limit) bytes, too many for \(purpose.words)",
                "Check that it is the right file."
            )
        case .notAKey(let purpose):
            (
                "'\(path)' doesn't hold \(purpose.words): one line of 44 characters of base64",
                "Make one with '\(purpose == .presharedKey ? "kl genpsk" : "kl genkey")'."
            )
        case .line(let number, .notAPublicKey):
            (
                "'\(path)' has no public key in line \(number)",
                "Write one a line, 44 characters of base64 as 'kl pubkey' prints them, and comments after '#'."
            )
        case .line(let number, .notAnAdmission(let problem)):
            (
                "'\(path)' can't be read in line \(number)",
                problem
            )
        case .line(let number, .keyWithOtherRights):
            (
                "'\(path)' has the key of line \(number) in an earlier line, with other rights",
                "Write one line for each key."
            )
        case .line(let number, .tooManyKeys(let limit)):
            (
                "'\(path)' has more than \(limit) keys, the first too many in line \(number)",
                "Remove those no longer needed."
            )
        case .system(let error, let operation):
            (
                "'\(path)' can't be \(operation.rawValue): \(error)",
                "Check the path, and what this user may do there."
            )
        }
    }

    private func octal(_ mode: UInt32) -> String {
        let digits = String(mode, radix: 8)
        return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
    }
}

extension FilePurpose {
    fileprivate var words: String {
        switch self {
        case .privateKey: "a private key"
        case .presharedKey: "a preshared key"
        case .peers: "a list of peers"
        }
    }
}
