import ArgumentParser
import HostSupport
import KeyFiles
import Libc
import Noise

struct GenerateKey: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "genkey",
        abstract: "Print a new private key.",
        discussion: "In base64, as wg genkey has it: (umask 077; kl genkey > private.key)"
    )

    func run() throws {
        try printSecret(StaticKeyPair.generate().privateKeyBase64Line())
    }
}

struct GeneratePresharedKey: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "genpsk",
        abstract: "Print a new preshared key.",
        discussion: "In base64, as wg genpsk has it: (umask 077; kl genpsk > preshared.key)"
    )

    func run() throws {
        try printSecret(PresharedKey.generate().base64Line())
    }
}

struct ShowPublicKey: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pubkey",
        abstract: "Read a private key from standard input and print its public key.",
        discussion: "In base64, as wg pubkey has it: kl pubkey < private.key"
    )

    func run() throws {
        let line = Array((try KeyStream.readPrivateKey(from: STDIN_FILENO).publicKey.base64 + "\n").utf8)
        try KeyStream.write(line.span.bytes, to: STDOUT_FILENO)
    }
}

/// Writes from locked memory directly to the descriptor: `print` would leave copies in strings and in the output's buffer.
private func printSecret(_ line: consuming LockedBytes) throws {
    if KeyStream.isOpenToOthers(STDOUT_FILENO) {
        let warning =
            "kl: this key goes to a file that other users can reach. Close it with 'chmod 600' before you use it."
        Console.write(warning + "\n", to: STDERR_FILENO)
    }
    try line.withBytes { try KeyStream.write($0, to: STDOUT_FILENO) }
}
