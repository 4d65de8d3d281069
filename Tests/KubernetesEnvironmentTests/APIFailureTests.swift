import Environments
import NIOHTTP1
import Testing

@testable import KubernetesEnvironment

struct APIFailureTests {
    private static let words = KubectlWords(
        place: KubernetesPlace(context: "dev", namespace: "shop", server: "https://10.0.0.7:6443")
    )

    private static func failure(_ code: Int, _ body: String, type: String = "application/json") -> APIFailure {
        let status = HTTPResponseStatus(statusCode: code)
        let head = HTTPResponseHead(version: .http1_1, status: status, headers: ["content-type": type])
        var answer = APIConversation.Answer(head)
        answer.body = Array(body.utf8)
        return APIFailure(answer)
    }

    private static func status(_ code: Int, _ reason: String, _ message: String) -> APIFailure {
        let text = #"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"\#(message)","#
        return Self.failure(
            code,
            text + #""reason":"\#(reason)","details":{"name":"a","kind":"pods"},"code":\#(code)}"#
        )
    }

    @Test("The API server's own failures keep its words")
    func statuses() {
        let message =
            "pods is forbidden: User 'dev' cannot list resource 'pods' in API group '' in the namespace 'shop'"
        let failure = Self.status(403, "Forbidden", message)
        #expect(
            failure
                == APIFailure(code: 403, reason: "Forbidden", message: message, details: .init(name: "a", kind: "pods"))
        )
        let problem = failure.problem(Self.words)
        #expect(problem.what == "you have no right to this: \(message)")
        #expect(Self.status(409, "Conflict", "x").problem(Self.words).what == "the API server of 'dev' says: x")
    }

    @Test("kubectl proxy's own words mean that the API server gave no answer")
    func proxy() {
        let away = Self.failure(
            500,
            "dial tcp 10.0.0.7:6443: connect: connection refused\n",
            type: "text/plain; charset=utf-8"
        )
        #expect(away.code == 0 && away.reason == "Unreachable")
        let problem = away.problem(Self.words)
        #expect(
            problem.what
                == "the API server at https://10.0.0.7:6443 can't be reached: dial tcp 10.0.0.7:6443: connect: connection refused"
        )
        #expect(problem.remedy == "Try whether this works: kubectl --context dev --namespace shop get pods")
        // Only the proxy writes text; a server between may answer anything.
        #expect(Self.failure(502, "<html>", type: "text/html").code == 502)
        #expect(Self.failure(500, "oops", type: "application/json").code == 500)
    }

    @Test("A login that can't be had, or isn't taken, is told from everything else")
    func logins() {
        let text = "getting credentials: exec: executable aws failed with exit code 255\n\nIt looks like you are"
        let failure = Self.failure(500, text, type: "text/plain; charset=utf-8")
        #expect(failure.isOfLogin)
        #expect(
            failure.problem(Self.words).what
                == "kubectl can't log in to 'dev': getting credentials: exec: executable aws failed with exit code 255"
        )
        #expect(Self.status(401, "Unauthorized", "Unauthorized").isOfLogin)
        #expect(!Self.status(403, "Forbidden", "no").isOfLogin)
        #expect(!Self.failure(500, "dial tcp: i/o timeout", type: "text/plain").isOfLogin)
    }

    @Test("The lines of kubectl's own log are told from those of a program that logs in")
    func log() {
        #expect(
            KubectlProxy.isLogged("E1130 18:48:44.622878   17088 proxy_server.go:147] Error while proxying request: x")
        )
        #expect(KubectlProxy.isLogged("W0101 00:00:00.000000       1 x.go:1] y"))
        for line in ["Error: The SSO session has expired. Run aws sso login", "E", "E12 3", "", "Established 1"] {
            #expect(!KubectlProxy.isLogged(line))
        }
    }

    @Test(
        "Nothing that a server says breaks a line or a terminal",
        arguments: ["a\\nb", "\\u001b[31mred", "\\u202eabc"]
    )
    func visible(message: String) {
        let failure = Self.status(500, "InternalError", message)
        #expect(failure.message == failure.message.printable && !failure.message.contains("\n"))
    }
}
