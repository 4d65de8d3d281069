import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import NIOHTTP1

/// Asks one cluster's API server with the user's rights, and one login for all questions of a process: through `kubectl proxy`,
/// which knows contexts, certificates and programs that log in. It is started when first needed, and ended after a minute without
/// a question. Measured with kubectl 1.37.1: one proxy has 47 MB of RSS (11 MB its own) and answers in a millisecond, whereas
/// each `kubectl get --raw` takes 70 ms and 50 MB.
///
/// Errors are an `APIFailure`, or a `Problem` where no answer of the API server's is concerned.
actor KubernetesClient {
    nonisolated let place: KubernetesPlace
    private var variables: [String: String]
    /// Whether programs in pods are run by WebSocket, as found out at that time.
    var execWay: (isWebSocket: Bool, at: ContinuousClock.Instant)?
    /// † Rights may be given or taken meanwhile.
    static let execWayCountsFor = Duration.seconds(300)
    /// Ways through programs in pods that are being opened, and those that wait for their turn.
    var opening = 0
    var waitingToOpen: [CheckedContinuation<Void, Never>] = []
    private var proxy: Task<KubectlProxy, any Error>?
    private var proxyStarted = ContinuousClock.now
    private var renewals = 0
    /// The variables are others than those that the proxy was started with.
    private var hasNewVariables = false
    /// Questions that are being answered, and a number for each time that there were none.
    private var open = 0
    private var rest: UInt64 = 0

    /// † A question is answered in some hundredths of a second.
    static let patience = Duration.seconds(10)
    /// † Pages of lists have at most some hundred objects of some ten kB.
    static let answerAtMost = 32 * 1_048_576
    /// An object in etcd has at most 1.5 MB.
    static let lineAtMost = 4 * 1_048_576
    /// † How long a proxy is kept at least whose login fails: the longer, the more have failed in a row since the user last asked
    /// for something.
    private static let renewsAfter: [Duration] = [.seconds(2), .seconds(4), .seconds(10)]
    /// In milliseconds.
    private static let configurationWithin: Int64 = 10_000
    private static let endsAfter = Duration.seconds(60)

    enum PatchKind: String, Sendable {
        case merge = "application/merge-patch+json"
        case strategic = "application/strategic-merge-patch+json"
    }

    init(_ place: KubernetesPlace, variables: [String: String] = Spawn.ownEnvironment) {
        self.place = place
        self.variables = variables
    }

    nonisolated var words: KubectlWords { KubectlWords(place: self.place) }

    /// `/api/v1/namespaces/NAMESPACE/…`
    nonisolated func path(_ rest: String) -> String { "/api/v1/namespaces/\(self.place.namespace)/\(rest)" }

    // MARK: Questions

    func get<Value: Decodable & Sendable>(_ path: String, _ query: [(String, String)] = []) async throws -> Value {
        try Self.value(await self.ask(APIConversation.Request(path, query)))
    }

    /// At most this many bytes, which must be all of it.
    func text(_ path: String, _ query: [(String, String)] = [], atMost limit: Int = 1_048_576) async throws -> String {
        String(
            decoding: try await self.ask(APIConversation.Request(path, query), bodyAtMost: limit).body,
            as: UTF8.self
        )
    }

    func patch<Value: Decodable & Sendable>(
        _ path: String,
        _ query: [(String, String)] = [],
        _ kind: PatchKind,
        _ body: some Encodable
    ) async throws -> Value {
        try await self.send(.PATCH, path, query, kind.rawValue, body)
    }

    func post<Value: Decodable & Sendable>(_ path: String, _ body: some Encodable) async throws -> Value {
        try await self.send(.POST, path, [], "application/json", body)
    }

    /// Nothing where it isn't there.
    func delete(_ path: String) async throws {
        var request = APIConversation.Request(path, [])
        request.method = .DELETE
        do { _ = try await self.ask(request) } catch let error as APIFailure where error.code == 404 {}
    }

    private func send<Value: Decodable & Sendable>(
        _ method: HTTPMethod,
        _ path: String,
        _ query: [(String, String)],
        _ type: String,
        _ body: some Encodable
    ) async throws -> Value {
        var request = APIConversation.Request(path, query)
        request.method = method
        request.body = (type, Array(try JSONEncoder().encode(body)))
        return try Self.value(await self.ask(request))
    }

    /// The answer's lines as they come; returns at its clean end.
    func watch(
        _ path: String,
        _ query: [(String, String)],
        _ onLine: (ArraySlice<UInt8>) async throws -> Void
    ) async throws {
        let request = APIConversation.Request(path, query)
        let refusal = try await self.conversing { conversation, _ in
            try await conversation.lines(request, lineAtMost: Self.lineAtMost, onLine)
        }
        if let refusal {
            let failure = APIFailure(refusal)
            if failure.isOfLogin { _ = self.renewProxy() }
            throw failure
        }
    }

    /// The answer with its headers; throws if it isn't a success.
    func ask(
        _ request: APIConversation.Request,
        bodyAtMost limit: Int = KubernetesClient.answerAtMost
    ) async throws -> APIConversation.Answer {
        for isLast in [false, true] {
            let (answer, proxy) = try await self.conversing { conversation, proxy in
                let late = APIFailure.late("no answer within \(Self.patience.components.seconds) s")
                let answer = try await within(Self.patience, else: late) {
                    try await conversation.answer(request, bodyAtMost: limit)
                }
                return (answer, proxy)
            }
            if answer.isSuccess {
                self.renewals = 0
                return answer
            }
            var failure = APIFailure(answer)
            if failure.isOfLogin, let words = await proxy.wordsOfLogin() { failure.message += ": \(words)" }
            guard failure.isOfLogin, self.renewProxy(), !isLast else { throw failure }
        }
        throw APIFailure.cut
    }

    private static func value<Value: Decodable>(_ answer: APIConversation.Answer) throws -> Value {
        do {
            return try JSONDecoder().decode(Value.self, from: Data(answer.body))
        } catch {
            throw APIFailure(code: 0, reason: "Garbage", message: "an answer of the API server can't be understood")
        }
    }

    // MARK: Lists

    /// In a page; and all pages together.
    private static let pageSize = 500
    static let objectsAtMost = 10_000
    /// † As the API server writes them: 10,000 pods of 12 kB.
    static let bytesAtMost = 128 * 1_048_576
    /// † A page may have fewer objects than were asked for, and even none, although there are more.
    private static let pagesAtMost = 200
    private static let listsWithin = Duration.seconds(60)

    /// All pages of a list, and the version of all.
    func list<Object: KubernetesObject>(
        _ query: [(String, String)] = []
    ) async throws -> (objects: [Object], resourceVersion: String?) {
        var objects: [Object] = []
        var version: String?
        var next: String?
        var (pages, bytes) = (0, 0)
        let limit = ContinuousClock.now + Self.listsWithin
        repeat {
            let answer = try await self.ask(
                APIConversation.Request(
                    self.path(Object.resource),
                    query + [("limit", "\(Self.pageSize)")] + (next.map { [("continue", $0)] } ?? [])
                )
            )
            let page: ObjectList<Object> = try Self.value(answer)
            // The API allows no other names; one becomes a part of paths.
            objects += (page.items ?? []).filter { KubernetesPlace.isSoundName($0.name) }
            pages += 1
            bytes += answer.body.count
            guard objects.count <= Self.objectsAtMost, pages <= Self.pagesAtMost, bytes <= Self.bytesAtMost else {
                throw Problem(
                    .failed,
                    "namespace '\(self.place.namespace)' has more \(Object.resource) than are read here:"
                        + " \(Self.objectsAtMost), in \(Self.pagesAtMost) pages of \(Self.bytesAtMost / 1_048_576) MiB"
                )
            }
            guard ContinuousClock.now < limit else {
                throw APIFailure.late(
                    "\(Object.resource) aren't listed within \(Self.listsWithin.components.seconds) s"
                )
            }
            version = page.metadata?.resourceVersion
            next = page.metadata?.continue.flatMap { $0.isEmpty ? nil : $0 }
        } while next != nil
        return (objects, version)
    }

    /// Whether the API server can begin a watch with what there is, as far as is known.
    private(set) var knowsInitialEvents = true

    func hasNoInitialEvents() { self.knowsInitialEvents = false }

    // MARK: The proxy

    var kubectlVariables: [String: String] { self.words.variables(self.variables) }

    /// The variables of the shell from which a user has just asked. They are used at the next start of `kubectl`; a proxy whose
    /// login works stays, since its end would end the watches.
    func use(variables: [String: String]) {
        self.hasNewVariables = self.hasNewVariables || variables != self.variables
        self.variables = variables
        self.renewals = 0
    }

    /// The user may have logged in again, or the shell's variables may be others. `kubectl proxy` (1.37.1) runs a program that logs
    /// in anew for each question while that fails, and for the next one after a 401; but it reads the configuration, and a token
    /// in it, once, when it starts. The old one goes on as long as a watch through it does, and ends with the last one.
    ///
    /// - Returns: false: it was started just now, and a new one would know no more.
    private func renewProxy() -> Bool {
        let pause = Self.renewsAfter[min(self.renewals, Self.renewsAfter.count - 1)]
        let isOld = ContinuousClock.now - self.proxyStarted > pause
        guard self.proxy != nil, isOld || self.hasNewVariables else { return false }
        self.proxy = nil
        self.renewals += 1
        return true
    }

    private func conversing<Value: Sendable>(
        _ body: (APIConversation, KubectlProxy) async throws -> Value
    ) async throws -> Value {
        self.open += 1
        defer { self.leaseEnded() }
        let proxy = try await self.runningProxy()
        do {
            return try await body(APIConversation(socket: proxy.socket), proxy)
        } catch let error as APIFailure where error == .cut {
            if let reason = proxy.reasonOfEnd { throw APIFailure.ofKubectl(reason) }
            throw error
        }
    }

    /// The proxy for a conversation of any length; it isn't ended before the lease is.
    func lease() async throws -> ProxyLease {
        self.open += 1
        do {
            let proxy = try await self.runningProxy()
            return ProxyLease(proxy) { [weak self] in Task { await self?.leaseEnded() } }
        } catch {
            self.leaseEnded()
            throw error
        }
    }

    private func leaseEnded() {
        self.open -= 1
        if self.open == 0 { self.endLater() }
    }

    private func runningProxy() async throws -> KubectlProxy {
        if let known = self.proxy {
            let proxy = try? await known.value
            if let proxy, proxy.isThere { return proxy }
            if self.proxy == known {
                self.proxy = nil
                proxy?.end()
            }
        }
        if let other = self.proxy { return try await other.value }
        let task = Task { [place, variables] in
            async let server: Void = Self.checkServer(of: place, variables)
            let proxy = try await KubectlProxy.start(place, variables: variables)
            try await server
            return proxy
        }
        self.proxyStarted = .now
        self.hasNewVariables = false
        self.proxy = task
        do {
            return try await task.value
        } catch {
            if self.proxy == task { self.proxy = nil }
            throw error
        }
    }

    private func endLater() {
        self.rest += 1
        let rest = self.rest
        Task { [weak self] in
            try? await Task.sleep(for: Self.endsAfter)
            await self?.endProxy(ofRest: rest)
        }
    }

    private func endProxy(ofRest rest: UInt64) async {
        guard self.open == 0, self.rest == rest, let task = self.proxy else { return }
        self.proxy = nil
        (try? await task.value)?.end()
    }

    /// The context may name another cluster by now than when the user connected.
    private static func checkServer(of place: KubernetesPlace, _ variables: [String: String]) async throws {
        let environment = KubectlWords(place: place).variables(variables)
        let configuration = try await Kubeconfig.read(environment, within: Self.configurationWithin)
        guard let context = configuration.context(place.context) else {
            throw APIFailure.ofKubectl("context \(place.context.quoted) does not exist")
        }
        guard context.server != place.server else { return }
        throw Problem(
            .failed,
            "context \(place.context.quoted) names the API server \(context.server) now, and you connected to \(place.server)",
            "If you mean the new one, connect again: kl env connect \(place.reference.name.shellQuoted)"
        )
    }
}

/// Keeps the proxy while somebody needs it.
struct ProxyLease: Sendable {
    private let proxy: KubectlProxy
    /// To be called once, by somebody who has kept the lease so long.
    let end: @Sendable () -> Void

    fileprivate init(_ proxy: KubectlProxy, end: @escaping @Sendable () -> Void) {
        self.proxy = proxy
        self.end = end
    }

    var socket: String { self.proxy.socket }
}
