import Environments
import InterceptModel
import TestSupport
import Testing

@testable import ComposeFiles

struct ComposeFileTests {
    @Test func everyKey() throws {
        let file = try parse(
            """
            name: shop
            version: "3.9"
            x-common: &common
              restart: on-failure
              environment: {LOG: debug}
            services:
              api-server:
                <<: *common
                command: ./api --port 21090 --title 'a b'
                working_dir: api
                ports:
                  - "8080:21090"
                  - target: 21091
                    published: "8081"
                    host_ip: 0.0.0.0
                    protocol: tcp
                    name: admin
                    app_protocol: http
                depends_on: [db]
                stop_grace_period: 1m30s
              db:
                entrypoint: [/usr/bin/env, "X=1"]
                command: ["db", "-v", ""]
                working_dir: /srv
                environment:
                  - A=1
                  - B=x=y
                  - HOME
                  - NOT_SET
                restart: no
            """,
            environment: ["HOME": "/home/ada"]
        )
        var api = ComposeService(
            name: "api-server",
            command: ["./api", "--port", "21090", "--title", "a b"],
            workingDirectory: "/no/such/demo/api",
            line: 7
        )
        api.environment = ["LOG": "debug"]
        api.ports = [
            ComposePort(published: 8080, target: 21090),
            ComposePort(published: 8081, target: 21091, hostAddress: "0.0.0.0", name: "admin"),
        ]
        api.dependsOn = ["db"]
        api.stopGraceSeconds = 90
        api.restart = .onFailure
        var db = ComposeService(
            name: "db",
            command: ["/usr/bin/env", "X=1", "db", "-v", ""],
            workingDirectory: "/srv",
            line: 21
        )
        db.environment = ["A": "1", "B": "x=y", "HOME": "/home/ada"]
        db.restart = .no
        #expect(
            file == ComposeFile(name: "shop", path: "/no/such/demo/compose.yaml", services: [api, db], warnings: [])
        )
    }

    @Test func defaults() throws {
        let file = try parse("services: {web: {command: sleep 1}}")
        let web = ComposeService(name: "web", command: ["sleep", "1"], workingDirectory: "/no/such/demo")
        #expect(file.name == "demo")
        #expect(file.services == [web])
        #expect(web.restart == .always && web.stopGraceSeconds == 10)
    }

    @Test(arguments: [
        ("/a/My Shop (2)/compose.yaml", "myshop2"), ("/a/_x/compose.yaml", "x"), ("/a/ÄÖ/compose.yaml", "default"),
        ("/compose.yaml", "default"), ("/a/\(String(repeating: "n", count: 100))/f", String(repeating: "n", count: 63)),
    ])
    func nameOfTheFolder(path: String, name: String) throws {
        let text = "services: {web: {command: sleep 1}}"
        #expect(try ComposeFile.parse(text: text, path: path, environment: [:]).name == name)
    }

    @Test(
        arguments: [
            ("8080:21090", 8080, 21090, "127.0.0.1"), ("127.0.0.2:8080:21090", 8080, 21090, "127.0.0.2"),
            ("[::1]:8080:21090/tcp", 8080, 21090, "::1"), ("0.0.0.0:1:65535/TCP", 1, 65535, "0.0.0.0"),
        ] as [(String, UInt16, UInt16, String)]
    )
    func shortPorts(text: String, published: UInt16, target: UInt16, host: String) throws {
        #expect(try PortText.short(text) == ComposePort(published: published, target: target, hostAddress: host))
    }

    @Test func dependsOnAsAMapping() throws {
        let file = try parse(
            """
            services:
              a: {command: a, depends_on: {b: {condition: service_healthy}, c: {condition: service_started}, d: }}
              b: {command: b}
              c: {command: c}
              d: {command: d}
            """
        )
        #expect(file.services.first?.dependsOn == ["b", "c", "d"])
    }

    @Test(arguments: [
        ("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5_400), ("0", 0), ("1h0m1s", 3_601),
    ])
    func durations(text: String, seconds: Double) { #expect(ComposeDuration.seconds(text) == seconds) }

    @Test(arguments: ["", "10", "s", "10 s", "-1s", "1.2.3s", "25h", "1x", "infs", "nans", "1e300s", "0x1s"])
    func notDurations(text: String) { #expect(ComposeDuration.seconds(text) == nil) }

    @Test func environmentFiles() throws {
        let room = try Room()
        try room.file("a b/.env", "PORT=21090\nTITLE=from the file\n")
        try room.file(
            "a b/one.env",
            "# a comment\n\nexport A=1 # one\nB=\"two\\n$PORT\" # x\nC='$PORT'\nD = d#d\nE=\nF=x y\n"
        )
        try room.file("a b/two.env", "A=2\r\nG=g\r\n")
        let path = try room.file(
            "a b/compose.yaml",
            """
            services:
              web:
                command: serve ${PORT} ${TITLE}
                env_file: [one.env, {path: two.env}, {path: none.env, required: false}]
                environment: {G: own}
            """
        )
        let file = try ComposeFile.read(path: path, environment: ["TITLE": "mine"])
        let web = try #require(file.services.first)
        #expect(web.command == ["serve", "21090", "mine"])
        #expect(
            web.environment == ["A": "2", "B": "two\n21090", "C": "$PORT", "D": "d#d", "E": "", "F": "x y", "G": "own"]
        )
        #expect(file.name == "ab" && web.workingDirectory == room("a b") && file.path == path)
    }

    @Test func filesThatCannotBeRead() throws {
        let room = try Room()
        func message(_ path: String) -> String? {
            do throws(Problem) {
                _ = try ComposeFile.read(path: path, environment: [:])
                return nil
            } catch { return error.description.replacing(room.path, with: "") }
        }
        #expect(message(room("none.yaml")) == "there is no /none.yaml. Name a compose file with --file.")
        #expect(message(room.path) == " isn't a file. Name the file that is meant.")
        try room.file("large.yaml", String(repeating: "#", count: 1_048_577))
        #expect(
            message(room("large.yaml")) == "/large.yaml is larger than 1 MiB. Name the file that is meant, or split it."
        )
        let path = try room.file("compose.yaml", "services: {a: {command: a, env_file: no.env}}")
        #expect(
            message(path)
                == "/compose.yaml:1:38: 'env_file': there is no /no.env. Make the file, or take it out."
        )
        try room.file("no.env", "A=1\n wh at\n")
        #expect(
            message(path)
                == "/compose.yaml:1:38: 'env_file': /no.env:2:2: the name 'wh at' holds a blank. Write NAME=VALUE, a value with blanks in quotes."
        )
    }
}
