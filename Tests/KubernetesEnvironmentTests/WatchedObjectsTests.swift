import Testing

@testable import KubernetesEnvironment

struct WatchedObjectsTests {
    private static func pod(_ name: String, _ version: Int, uid: String? = nil, phase: String = "Running") -> String {
        """
        {"kind":"Pod","apiVersion":"v1","metadata":{"name":"\(name)","uid":"\(uid ?? "u-\(name)")",\
        "resourceVersion":"\(version)"},"status":{"phase":"\(phase)"}}
        """
    }

    private static func line(_ type: String, _ object: String) -> ArraySlice<UInt8> {
        Array(#"{"type":"\#(type)","object":\#(object)}"#.utf8)[...]
    }

    private static func bookmark(_ version: Int, isEnd: Bool = false) -> ArraySlice<UInt8> {
        let annotations = isEnd ? #","annotations":{"k8s.io/initial-events-end":"true"}"# : ""
        return Self.line("BOOKMARK", #"{"kind":"Pod","metadata":{"resourceVersion":"\#(version)"\#(annotations)}}"#)
    }

    private static func inStep(_ pods: [String]) throws -> WatchedObjects<Pod> {
        var watched = WatchedObjects<Pod>()
        watched.begin()
        for (index, name) in pods.enumerated() { _ = try watched.hear(Self.line("ADDED", Self.pod(name, index + 1))) }
        #expect(try watched.hear(Self.bookmark(100, isEnd: true)) == .inStep)
        return watched
    }

    @Test("The objects count from the bookmark on that says that these are all")
    func beginning() throws {
        var watched = WatchedObjects<Pod>()
        watched.begin()
        #expect(try watched.hear(Self.line("ADDED", Self.pod("a", 1))) == .nothing)
        #expect(try watched.hear(Self.bookmark(5)) == .nothing)
        #expect(try watched.hear(Self.line("ADDED", Self.pod("b", 2))) == .nothing)
        // Before they are all there, one may go.
        #expect(try watched.hear(Self.line("DELETED", Self.pod("a", 6))) == .nothing)
        #expect(!watched.isInStep && watched.isComing && watched.objects.isEmpty)
        #expect(try watched.hear(Self.bookmark(7, isEnd: true)) == .inStep)
        #expect(watched.isInStep && Set(watched.objects.keys) == ["b"])
    }

    @Test("What was deleted while no watch ran is gone once the next one is in step, and not sooner")
    func again() throws {
        var watched = try Self.inStep(["a", "b"])
        watched.end()
        #expect(!watched.isInStep && watched.objects.count == 2)
        watched.begin()
        #expect(try watched.hear(Self.line("ADDED", Self.pod("b", 2))) == .nothing)
        #expect(watched.objects.count == 2)
        // The watch is cut before the end mark, and begins once more.
        watched.end()
        watched.begin()
        _ = try watched.hear(Self.line("ADDED", Self.pod("c", 9)))
        #expect(try watched.hear(Self.bookmark(10, isEnd: true)) == .inStep)
        #expect(Set(watched.objects.keys) == ["c"])
    }

    @Test("Changes are told once")
    func changes() throws {
        var watched = try Self.inStep(["a"])
        #expect(try watched.hear(Self.line("ADDED", Self.pod("b", 101))) == .changed)
        #expect(try watched.hear(Self.line("ADDED", Self.pod("b", 101))) == .nothing)
        #expect(try watched.hear(Self.line("MODIFIED", Self.pod("b", 102, phase: "Failed"))) == .changed)
        #expect(watched.objects["b"]?.isFinished == true)
        #expect(try watched.hear(Self.line("DELETED", Self.pod("b", 103))) == .changed)
        #expect(try watched.hear(Self.line("DELETED", Self.pod("b", 103))) == .nothing)
        #expect(try watched.hear(Self.bookmark(200)) == .nothing)
        #expect(try watched.hear(Self.line("SOMETHING", Self.pod("z", 104))) == .nothing)
        #expect(Set(watched.objects.keys) == ["a"] && watched.resourceVersion == "200")
    }

    @Test("The end of a pod doesn't take one of the same name with it")
    func sameName() throws {
        var watched = try Self.inStep(["a"])
        #expect(try watched.hear(Self.line("ADDED", Self.pod("a", 101, uid: "new"))) == .changed)
        #expect(try watched.hear(Self.line("DELETED", Self.pod("a", 102))) == .nothing)
        #expect(watched.objects["a"]?.uid == "new")
    }

    @Test("An ERROR line ends a watch: 410 is how a version is told to be too old")
    func errors() throws {
        let status =
            #"{"kind":"Status","status":"Failure","message":"too old resource version","reason":"Expired","code":410}"#
        for start in [WatchedObjects<Pod>(), try Self.inStep(["a"])] {
            var watched = start
            let failure = #expect(throws: APIFailure.self) { try watched.hear(Self.line("ERROR", status)) }
            #expect(failure?.code == 410 && failure?.reason == "Expired")
        }
        var watched = try Self.inStep(["a"])
        let empty = #expect(throws: APIFailure.self) { try watched.hear(Self.line("ERROR", "{}")) }
        #expect(empty?.code == 500)
    }

    @Test(
        "A line that can't be understood ends a watch",
        arguments: [
            "", "{", "null", "[]", #"{"type":"ADDED"}"#, #"{"type":"ADDED","object":{}}"#,
            #"{"type":"ADDED","object":{"metadata":{}}}"#, #"{"type":"MODIFIED","object":{"metadata":{"name":7}}}"#,
            #"{"type":7,"object":{"metadata":{"name":"a"}}}"#, #"{"type":"BOOKMARK","object":"x"}"#, "\u{0}\u{1}\u{2}",
            #"{"type":"ADDED","object":{"metadata":{"name":"a"},"spec":{"containers":"none"}}}"#,
            String(repeating: "[", count: 100_000),
        ]
    )
    func garbage(line: String) throws {
        var watched = try Self.inStep(["a"])
        #expect(throws: APIFailure.garbledWatch) { try watched.hear(Array(line.utf8)[...]) }
        #expect(Set(watched.objects.keys) == ["a"])
    }

    @Test("More objects than are watched end a watch, while they come and later")
    func tooMany() throws {
        var watched = WatchedObjects<Pod>(limit: 2)
        watched.begin()
        for name in ["a", "b"] { _ = try watched.hear(Self.line("ADDED", Self.pod(name, 1))) }
        var coming = watched
        #expect(throws: APIFailure.tooManyWatched) { try coming.hear(Self.line("ADDED", Self.pod("c", 2))) }
        _ = try watched.hear(Self.bookmark(3, isEnd: true))
        #expect(throws: APIFailure.tooManyWatched) { try watched.hear(Self.line("ADDED", Self.pod("c", 4))) }
    }

    @Test("The lines of what is kept are at most so long together, and what goes makes room")
    func tooMuch() throws {
        let size = Self.line("MODIFIED", Self.pod("a", 1)).count
        var watched = WatchedObjects<Pod>(bytesAtMost: 2 * size)
        watched.begin()
        for name in ["a", "b"] { _ = try watched.hear(Self.line("ADDED", Self.pod(name, 1))) }
        _ = try watched.hear(Self.bookmark(3, isEnd: true))
        for version in 2...9 { _ = try watched.hear(Self.line("MODIFIED", Self.pod("a", version))) }
        var full = watched
        #expect(throws: APIFailure.tooManyWatched) { try full.hear(Self.line("ADDED", Self.pod("c", 4))) }
        _ = try watched.hear(Self.line("DELETED", Self.pod("b", 5)))
        #expect(try watched.hear(Self.line("ADDED", Self.pod("c", 6))) == .changed)
    }

    @Test("Objects whose names can't be are left out", arguments: ["--help", "../../secrets", "a b", "A"])
    func unsoundNames(_ name: String) throws {
        var watched = try Self.inStep(["a"])
        #expect(try watched.hear(Self.line("ADDED", Self.pod(name, 200))) == .nothing)
        #expect(Set(watched.objects.keys) == ["a"])
    }

    @Test("After a list a watch goes on from the list's version")
    func afterList() throws {
        var watched = WatchedObjects<Pod>()
        watched.begin(after: [], resourceVersion: "41")
        #expect(watched.isInStep && watched.resourceVersion == "41")
        #expect(try watched.hear(Self.line("ADDED", Self.pod("a", 42))) == .changed)
    }
}
