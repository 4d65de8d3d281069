import EnvironmentCatalog
import Environments
import FoundationEssentials
import HostSupport
import InterceptModel
import Libc
import WorkspaceAPI

/// A developer's workspace as commands use it: its files, the connected environment, and the daemon.
struct Workspace {
    let home: WorkspaceHome
    let output: OutputOptions

    init(_ output: OutputOptions) throws {
        self.home = try WorkspaceHome()
        try self.home.check()
        self.output = output
        output.note("configuration in \(self.home.configuration), state in \(self.home.state)")
    }

    // MARK: Identity

    /// Makes the workspace's key if there is none yet.
    func member() throws -> Member { try self.identity().member }

    func identity() throws -> WorkspaceIdentity { try WorkspaceIdentity(home: self.home) }

    /// Checks the folders before a command begins something that it has to record there.
    func prepare() throws { try self.home.prepareToWrite() }

    // MARK: The connected environment

    func connectedReference() throws -> EnvironmentReference? {
        try Self.read(EnvironmentReference.self, self.home.connected)
    }

    /// Throws the error that says how to connect, if no environment is connected.
    func environment() throws -> any Environments.Environment {
        guard let reference = try self.connectedReference() else { throw Problem.notConnected }
        self.output.note("environment \(reference.name): \(reference.location)")
        return try EnvironmentCatalog.environment(reference)
    }

    func remember(_ reference: EnvironmentReference) throws {
        var known = try self.knownReferences().filter { $0.location != reference.location }
        known.insert(reference, at: 0)
        try self.write(Array(known.prefix(100)), self.home.environments)
    }

    func connect(to reference: EnvironmentReference) throws {
        try self.remember(reference)
        try self.write(reference, self.home.connected)
    }

    func disconnect() throws {
        guard unlink(self.home.connected) == 0 || errno == ENOENT else {
            throw Problem(
                .failed,
                "\(HostError("\(self.home.connected) can't be removed", code: errno))",
                "Check the folder."
            )
        }
    }

    func knownReferences() throws -> [EnvironmentReference] {
        try Self.read([EnvironmentReference].self, self.home.environments) ?? []
    }

    private static func read<Value: Decodable>(_ type: Value.Type, _ path: String) throws -> Value? {
        guard let bytes = try SmallFile.read(path) else { return nil }
        do {
            return try JSONDecoder().decode(type, from: Data(bytes))
        } catch {
            throw Problem(.failed, "\(path) can't be understood", "Remove it, then connect again: kl env connect")
        }
    }

    private func write(_ value: some Encodable, _ path: String) throws {
        try self.home.prepare()
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        try SmallFile.replace(path, with: Array(try encoder.encode(value)) + [UInt8(ascii: "\n")])
    }

    // MARK: The daemon

    /// Starts the daemon if it doesn't run.
    func daemon() throws -> DaemonConversation {
        DaemonConversation(try DaemonStarter.connect(home: self.home), home: self.home)
    }

    /// In milliseconds, for a command that lists, and for one that changes something. The daemon takes some hundredths of a
    /// second, on a very busy machine a second.
    static let listPatience = 1_500
    static let changePatience = 5_000

    /// Nil: no daemon runs.
    func runningDaemon(within milliseconds: Int = Self.changePatience) throws -> DaemonConversation? {
        guard let (client, version) = try DaemonStarter.running(home: self.home, within: milliseconds) else {
            return nil
        }
        // A daemon of another version is replaced, and hands over its intercepts.
        guard version == Version.number else { return try self.daemon() }
        return DaemonConversation(client, home: self.home)
    }

    /// This workspace's intercepts as its daemon knows them; none if it doesn't run.
    func ownIntercepts(within milliseconds: Int = Self.changePatience) throws -> [InterceptStatus] {
        try self.daemonsIntercepts(within: milliseconds) ?? []
    }

    /// Nil: no daemon runs.
    private func daemonsIntercepts(within milliseconds: Int) throws -> [InterceptStatus]? {
        guard let daemon = try self.runningDaemon(within: milliseconds) else { return nil }
        return try daemon.intercepts(within: milliseconds)
    }

    /// All workspaces' intercepts in this environment.
    ///
    /// - Parameter silent: set if the daemon has already failed to answer, so that it isn't asked again.
    func intercepts(
        in environment: any Environments.Environment,
        silent known: SilentDaemon? = nil
    ) async throws -> InterceptList {
        var own: [InterceptStatus] = []
        var silent = known
        var isDaemonThere = false
        do {
            if known == nil {
                let told = try self.daemonsIntercepts(within: Self.listPatience)
                isDaemonThere = told != nil
                own = (told ?? []).filter { $0.environment.location == environment.reference.location }
            }
        } catch let error as SilentDaemon {
            silent = error
        }
        // Without a key, no intercept is this workspace's; and a command that only reads makes no key.
        let identity = try own.isEmpty ? WorkspaceIdentity(ifAnyIn: self.home) : self.identity()
        var views: [InterceptView] = []
        var records: [InterceptRecord] = []
        do {
            records = try await environment.intercepts()
            if let problem = await environment.recordProblem { self.output.warn(ProblemView(problem).description) }
        } catch {
            guard !own.isEmpty else { throw silent ?? error }
            // The environment's folder was moved away, say: this workspace's own intercepts can still be stopped.
            self.output.warn(ProblemView(error).description)
        }
        var seenOf: [String: SeenAddress] = [:]
        for record in records {
            let member = identity?.of(record.through ?? record.service, in: environment.reference).member
            let isOwn = record.holder.publicKey == member?.publicKey
            if let seen = record.originalSees { seenOf[record.service] = seen }
            if isOwn, own.contains(where: { $0.service == record.service }) { continue }
            views.append(InterceptView(record, environment: environment.reference, isOwn: isOwn, silent))
            if isOwn, isDaemonThere, record.through == nil { views[views.count - 1].isOnlyRecorded() }
        }
        // If there are own intercepts, each of them says so as its reason.
        if let silent, !views.contains(where: \.isOwn) { self.output.warn(silent.description) }
        if let identity {
            views += own.map { InterceptView($0, holder: identity.of($0.service, in: $0.environment).member) }
        }
        // The environment knows what the sidecars have found out since the daemon read their reports.
        for index in views.indices where views[index].isOwn {
            views[index].originalSees = seenOf[views[index].service] ?? views[index].originalSees
        }
        if silent == nil { await self.tellWhereNothingAnswers(&views, environment) }
        // Of one service, intercepts come before mirrors.
        views.sort {
            ($0.service, $0.kind == .mirror ? 1 : 0, $0.since, $0.publicKey)
                < ($1.service, $1.kind == .mirror ? 1 : 0, $1.since, $1.publicKey)
        }
        return InterceptList(environment: environment.reference.name, holders: views)
    }

    /// The holders of one service; none if the environment can't be read.
    func holders(of service: String, in environment: any Environments.Environment) async -> [InterceptView] {
        let list = try? await self.intercepts(in: environment)
        return list?.holders.filter { $0.service == service } ?? []
    }

    /// A degraded intercept leaves its service to the original. If the original doesn't run, the view must say that nothing
    /// answers.
    private func tellWhereNothingAnswers(
        _ views: inout [InterceptView],
        _ environment: any Environments.Environment
    ) async {
        func isConcerned(_ view: InterceptView) -> Bool { view.phase == .degraded && view.kind == .intercept }
        guard views.contains(where: isConcerned) else { return }
        var services: [Environments.Service]?
        do {
            services = try await environment.services()
        } catch let error as Problem where error.code == .notUp {
            services = nil
        } catch {
            return
        }
        for index in views.indices where isConcerned(views[index]) {
            guard let services else {
                views[index].nothingAnswers(because: environment.reference.notUpReason)
                continue
            }
            let service = services.first { $0.name == views[index].service }
            guard let service, service.state == .stopped else { continue }
            views[index].nothingAnswers(because: service.reason ?? "it is stopped")
        }
    }
}

extension Problem {
    static let notConnected = Problem(
        .notConnected,
        "not connected to an environment",
        "Connect first: kl env connect"
    )
}
