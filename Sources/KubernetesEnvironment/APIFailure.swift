import FoundationEssentials
import InterceptModel

/// An answer of the API server that isn't what was asked for, or none at all.
struct APIFailure: Error, Equatable, Sendable {
    /// The HTTP status; 0: the API server gave none.
    var code: Int
    /// The API's own word: `Forbidden`, `Conflict`, `NotFound`, `Expired`, `Invalid`, `Unauthorized`. Our own where `code` is 0:
    /// `Unreachable`, `Login`, `Late`, `TooLong`.
    var reason: String
    /// The server's, or kubectl's, on one line.
    var message: String
    var details: Details?

    struct Details: Decodable, Equatable, Sendable {
        var name: String?
        var kind: String?
    }
}

extension APIFailure {
    private init(_ reason: String, _ message: String) { self.init(code: 0, reason: reason, message: message) }

    /// The connection to the proxy ended before the answer did.
    static let cut = APIFailure("Cut", "the connection to the API server ended")
    static let lineTooLong = APIFailure("TooLong", "a line of a watch is longer than is read here")
    static let garbledWatch = APIFailure("Garbage", "a line of a watch can't be understood")
    static let tooManyWatched = APIFailure("TooMany", "there are more objects than are watched here")
    /// The API server doesn't know `sendInitialEvents`, and goes on without it.
    static let noInitialEvents = APIFailure("NoInitialEvents", "a watch doesn't say what there is")
    static let noKubectl = APIFailure("NoKubectl", "there is no kubectl program in PATH")

    /// Whether a watch that tells what there is was refused, by an API server that can't do that: before 1.27 it knows no
    /// `resourceVersionMatch` in a watch, later the feature may be off.
    var saysNoInitialEvents: Bool { self == .noInitialEvents || self.code == 400 || self.code == 422 }

    static func late(_ message: String) -> APIFailure { APIFailure("Late", message) }
    static func tooLong(_ target: String) -> APIFailure {
        APIFailure("TooLong", "the answer to \(target.printable) is longer than is read here")
    }

    /// What `kubectl` said when it ended.
    static func ofKubectl(_ line: String) -> APIFailure {
        APIFailure("Kubectl", String(line.trimmingPrefix("error: ")).printable)
    }

    /// An answer that isn't a success: the API server's has a `Status` as JSON; that of `kubectl proxy` itself is a line of text
    /// with status 500 (1.37.1), and means that the API server gave none.
    init(_ answer: APIConversation.Answer) {
        struct Status: Decodable {
            var code: Int?
            var reason: String?
            var message: String?
            var details: Details?
        }
        if let status = try? JSONDecoder().decode(Status.self, from: Data(answer.body)), status.message != nil {
            self.init(
                code: status.code ?? answer.code,
                reason: status.reason ?? "",
                message: (status.message ?? "").printable,
                details: status.details
            )
            return
        }
        let lines = answer.body.prefix(2_048).split(separator: UInt8(ascii: "\n"))
        let text = String(decoding: lines.first ?? [], as: UTF8.self).printable
        guard answer.code == 500 || answer.code == 502, answer.contentType.hasPrefix("text/plain") else {
            self.init(code: answer.code, reason: "", message: text)
            return
        }
        self.init(Self.isLogin(text) ? "Login" : "Unreachable", text)
    }

    var isOfLogin: Bool { self.code == 401 || self.code == 0 && self.reason == "Login" }

    /// The words of client-go where a user's credentials can't be got.
    static func isLogin(_ text: String) -> Bool {
        ["getting credentials", "exec plugin", "exec: ", "oauth2:", "no Auth Provider found"].contains {
            text.contains($0)
        }
    }
}

extension APIFailure {
    static let askForTheRight =
        "Ask who runs the cluster for that right: agent/kubernetes/role.yaml has all that are needed."

    /// A sentence for people: what was refused, by whom, and what mends it.
    func problem(_ words: KubectlWords) -> Problem {
        let context = words.place.context.printable
        let trial = "Try whether this works: \(words.trial.printable)"
        switch (self.code, self.reason) {
        case (0, "NoKubectl"): return Self.problemOfNoKubectl
        case (0, "Kubectl"):
            return Problem(.failed, "kubectl says: \(self.message)", trial)
        case (0, "Login"):
            return Problem(.login, "kubectl can't log in to '\(context)': \(self.message)", self.login(trial))
        case (401, _):
            return Problem(
                .login,
                "the cluster of '\(context)' doesn't take your login: \(self.message)",
                self.login(trial)
            )
        case (0, "Unreachable"):
            let server = words.place.server.printable
            return Problem(.failed, "the API server at \(server) can't be reached: \(self.message)", trial)
        case (0, _):
            return Problem(.failed, "the API server of '\(context)': \(self.message)", trial)
        case (403, _):
            return Problem(
                .failed,
                self.refusal,
                Self.askForTheRight
            )
        case (429, _), (503, _):
            return Problem(.failed, "the API server of '\(context)' is too busy: \(self.message)", "Try again.")
        default:
            return Problem(.failed, "the API server of '\(context)' says: \(self.message)")
        }
    }

    static let problemOfNoKubectl = Problem(
        .failed,
        "there is no kubectl program in PATH, which environments of Kubernetes need",
        "Install it: https://kubernetes.io/docs/tasks/tools/"
    )

    private func login(_ trial: String) -> String { "Log in again. \(trial)" }

    private var refusal: String { "you have no right to this: \(self.message)" }
}
