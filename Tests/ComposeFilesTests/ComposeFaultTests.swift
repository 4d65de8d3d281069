import Testing

@testable import ComposeFiles

/// Wrong files, and exactly what is said of them.
struct ComposeFaultTests {
    static let documents: [(String, String)] = [
        ("", "1:1: the file is empty. Write 'services:' and at least one service."),
        ("# nothing\n", "1:1: the file is empty. Write 'services:' and at least one service."),
        ("- a\n", "1:1: a compose file takes a mapping, and this is a list. Correct the file."),
        ("name: x\n", "1:1: there is no 'services' in it. Write at least one service with a command."),
        ("name: x\nservices:\n", "2:1: 'services' is empty. Write at least one service with a command."),
        ("services: [a]\n", "1:11: 'services' takes a mapping, and this is a list. Correct the file."),
        (
            "services:\n  a:\n    command: x\n  a:\n    command: y\n",
            "4:3: the key 'a' is there already (line 2). Keep one of them."
        ),
        ("services:\n\ta: 1\n", "2:1: there is a tab where YAML takes blanks only. Indent with blanks."),
        (
            "services: {a: {command: x}\n",
            "2:1: this isn't YAML: did not find expected ',' or '}' while parsing a flow mapping that began at line 1. Correct the file there."
        ),
        (
            "a: \"x\n",
            "2:1: this isn't YAML: found unexpected end of stream while scanning a quoted scalar that began at line 1. Correct the file there."
        ),
        ("a: 1\n---\nb: 2\n", "2:1: a second document begins here. Keep one in the file."),
        ("a: \u{1}\n", "1:4: this isn't text: control characters are not allowed. Correct the file there."),
        (
            "name: Big\nservices: {a: {command: x}}",
            "1:7: 'Big' can't be an environment's name. Write small letters, digits, '-' and '_', at most 63, a letter or digit first."
        ),
        (
            "services:\n  a b:\n    command: x\n",
            "2:3: 'a b' can't be a service's name. Write letters, digits, '.', '_' and '-', at most 63, a letter, digit or '_' first."
        ),
        (
            "services:\n  supervisor: {command: x}\n",
            "2:3: 'supervisor' is the name of one of kl's own logs. Give the service another."
        ),
        (
            "services:\n  a: {command: *x}\n",
            "2:16: '*x' stands for nothing: there is no '&x' before it. Write it at the value that is meant."
        ),
        (
            "services:\n  a: {command: x}\n  b: */5 *\n",
            "3:6: '*/5 *' begins with '*', which is an alias in YAML. Put it in quotes."
        ),
        ("? [a]\n: b\n", "1:3: a list or a mapping can't be a key. Correct the file."),
        ("services:\n  <<: 1\n", "2:7: '<<' takes mappings, and this is '1'. Correct the file."),
    ]

    static let services: [(String, String)] = [
        ("", "2:3: service 'a' has no command. Write what is run, as in 'command: ./server --port 21090'."),
        (
            "image: x",
            "2:3: service 'a' has no command, and its image isn't used: it is a process of this machine. Write what is run, as in 'command: ./server --port 21090'; or connect to what Docker runs: kl env connect --docker demo"
        ),
        ("command: ''", "2:3: service 'a' has no command. Write what is run, as in 'command: ./server --port 21090'."),
        ("command: {x: y}", "2:16: 'command' takes a text, and this is a mapping. Correct the file."),
        ("command: [x, [y]]", "2:20: an element of 'command' takes a text, and this is a list. Correct the file."),
        ("command: [x, ~]", "2:20: an element of 'command' takes a text, and this is nothing. Correct the file."),
        ("command: \"x 'y\"", "2:16: a quote (') in 'command' isn't closed. Close it, or write a list."),
        ("command: 'x \\'", "2:16: 'command' ends with a backslash. Leave it out, or write a list."),
        ("command: \"x\\0y\"", "2:16: 'command' holds a zero character. Leave it out."),
        ("command: 'x ${A'", "2:16: a '${' has no '}'. Close it, or write '$$' for a '$' itself."),
        (
            "command: 'x ${A!b}'",
            "2:16: '${A!b}' isn't a variable. Write ${NAME} or ${NAME:-default}, or '$$' for a '$' itself."
        ),
        (
            "command: 'x ${A:?the key of it}'",
            "2:16: the variable 'A' isn't set: the key of it. Set it, then try again."
        ),
        ("command: 'x ${A?}'", "2:16: the variable 'A' isn't set. Set it, then try again."),
        ("command: x, ports: 80", "2:26: 'ports' takes a list, and this is '80'. Correct the file."),
        (
            "command: x, restart: never",
            "2:28: 'never' isn't a restart policy. Write no, always, on-failure or unless-stopped."
        ),
        (
            "command: x, stop_grace_period: 10",
            "2:38: '10' isn't a length of time. Write one with its unit, as in '10s' or '1m30s'."
        ),
        (
            "command: x, environment: [=1]",
            "2:33: '' can't be a variable's name. Write NAME=VALUE in a list, NAME: VALUE in a mapping."
        ),
        (
            "command: x, environment: {A: [1]}",
            "2:36: the variable 'A' takes a text, and this is a list. Correct the file."
        ),
        (
            "command: x, x-kl: {divert: tproxy}",
            "2:34: 'tproxy' isn't a way to divert. Write listen or redirect."
        ),
        (
            "command: x, x-kl: {netns: blue}",
            "2:33: 'blue' isn't the path of a network namespace. Write one, such as /run/netns/blue."
        ),
        (
            "command: x, x-kl: {netns: /run/netns/blue, divert: listen}",
            "2:25: a service in a network namespace of its own is diverted by redirect. Leave out 'divert: listen'."
        ),
        (
            "command: x, x-kl: {divert: redirect}, ports: ['80:81']",
            "2:53: a service that is diverted by redirect is reached where it listens itself, and 80 isn't 81. Write \"81:81\"."
        ),
        (
            "command: x, x-kl: {netns: /n}, ports: ['80:80', '80:80']",
            "2:55: port 80 is there twice. Take one of them out."
        ),
        ("command: x, x-kl: 1", "2:25: 'x-kl' takes a mapping, and this is '1'. Correct the file."),
        (
            "command: x, depends_on: [a]",
            "2:32: services wait for each other in a circle: a → a. Take one of them out of 'depends_on'."
        ),
        (
            "command: x, depends_on: {a: {condition: service_completed_successfully}}",
            "2:47: the condition 'service_completed_successfully' isn't in this version. Write 'service_started': it means that the service listens."
        ),
    ]

    static let ports: [(String, String)] = [
        (
            "\"8080:8080\"",
            "port 8080 is the published one and the service's own, and on one machine they can't be the same. Let the service listen on another, such as 18080, and write \"8080:18080\"."
        ),
        ("\"8080\"", "'8080' names no published port. Write \"18080:8080\", or another for clients to use."),
        ("8080", "'8080' names no published port. Write \"18080:8080\", or another for clients to use."),
        (
            "\"127.0.0.1::8080\"",
            "'127.0.0.1::8080' names no published port. Write \"18080:8080\", or another for clients to use."
        ),
        ("\"0:8080\"", "the published port 0 would be another one each time. Write a number from 1 to 65535."),
        ("\"80:0\"", "the target port '0' is out of range. Write a number from 1 to 65535."),
        ("\"80:65536\"", "the target port '65536' is out of range. Write a number from 1 to 65535."),
        (
            "\"99999999999999999999:1\"",
            "the published port '99999999999999999999' is out of range. Write a number from 1 to 65535."
        ),
        (
            "\"8000-8010:9000-9010\"",
            "'9000-9010' is a range of ports, which this version doesn't have. Write each on a line of its own."
        ),
        ("\"80:http\"", "the target port 'http' isn't a number. Write one from 1 to 65535."),
        ("\"-1:80\"", "the published port '-1' isn't a number. Write one from 1 to 65535."),
        ("\"53:5353/sctp\"", "'sctp' isn't a protocol of ports. Write 'tcp' or 'udp'."),
        (
            "\"localhost:80:81\"",
            "'localhost' isn't an IP address. Write one of this machine's, such as 127.0.0.1 or 0.0.0.0."
        ),
        (
            "\"::1:80:81\"",
            "'::1:80:81' isn't a port. Write PUBLISHED:TARGET or ADDRESS:PUBLISHED:TARGET, an IPv6 address in [ ]."
        ),
        ("\"[::1:80:81\"", "'[::1:80:81' isn't a port. Write [ADDRESS]:PUBLISHED:TARGET."),
        ("{published: 80}", "a port has no 'target'. Write where the service's own process listens."),
        ("{target: 80}", "target 80 names no published port. Write \"10080:80\", or another for clients to use."),
    ]

    @Test(arguments: documents)
    func document(text: String, message: String) { #expect(failure(text) == message) }

    @Test(arguments: services)
    func service(text: String, message: String) { #expect(failure("services:\n  a: {\(text)}\n") == message) }

    @Test(arguments: ports)
    func port(text: String, message: String) {
        #expect(failure("services:\n  a:\n    command: x\n    ports:\n      - \(text)\n") == "5:9: \(message)")
    }

    @Test(arguments: [
        (
            "[\"80:81\"]", "[\"80:82\"]",
            "4:29: port 80 is published by 'web' (line 3) and by 'api' (line 4). Publish one of them on another port."
        ),
        (
            "[\"80:81\"]", "[\"82:81\"]",
            "4:29: 'web' (line 3) and 'api' (line 4) both listen on 81 themselves, and they share this machine. Let one of them listen on another port."
        ),
        (
            "[\"80:81\", \"80:83\"]", "[]",
            "3:38: port 80 is published twice by 'web' (line 3). Publish one of them on another port."
        ),
        (
            "[\"80:82\"]", "[\"82:83\"]",
            "3:29: 'web' listens on 82 itself, and 'api' (line 4) publishes that port. Let one of them use another port."
        ),
        (
            "[\"80:81\"]", "[\"82:80\"]",
            "4:29: 'api' listens on 80 itself, and 'web' (line 3) publishes that port. Let one of them use another port."
        ),
        (
            "[{target: 81, published: 80, name: http}, {target: 83, published: 82, name: http}]", "[]",
            "3:70: two ports of 'web' have the name 'http'. Give one of them another."
        ),
    ])
    func portsThatMeet(web: String, api: String, message: String) {
        #expect(
            failure("# ports\nservices:\n  web: {command: x, ports: \(web)}\n  api: {command: x, ports: \(api)}\n")
                == message
        )
    }

    @Test func circlesAndStrangers() {
        #expect(
            failure(
                "services:\n  a: {command: x, depends_on: [b]}\n  b: {command: x, depends_on: [c]}\n  c: {command: x, depends_on: [b]}\n"
            ) == "4:32: services wait for each other in a circle: b → c → b. Take one of them out of 'depends_on'."
        )
        #expect(
            failure("services:\n  api-server: {command: x}\n  b: {command: x, depends_on: [api-sever]}\n")
                == "3:32: 'b' depends on 'api-sever', which isn't in the file. Did you mean 'api-server'? Correct the name, or take it out."
        )
    }

    @Test func warnings() throws {
        let file = try parse(
            """
            volumes: {}
            networks: {}
            service: 1
            x-kl: {fast: yes}
            x-other: 1
            services:
              a:
                image: x
                comand: y
                command: a && b $GONE
                healthcheck: {}
                labels: [x]
                restart: on-failure:3
                x-kl:
                ports: [{target: 1, published: 2, mode: host, nam: x}]
            """
        )
        #expect(
            file.warnings.map(withoutPath) == [
                "1:1: 'volumes' is ignored: the services of a local environment are processes of this machine",
                "2:1: 'networks' is ignored: the services of a local environment are processes of this machine",
                "3:1: 'service' is ignored: it isn't a key of a compose file. Did you mean 'services'?",
                "4:8: 'x-kl.fast' is ignored: 'x-kl' has no such key here",
                "8:5: 'image' is ignored: a service of a local environment is a process of this machine",
                "9:5: 'comand' is ignored: it isn't a key of a service. Did you mean 'command'?",
                "10:14: there is no shell: '&&' is an argument like the others. For a shell write command: [sh, -c, \"…\"]",
                "11:5: 'healthcheck' is ignored: it isn't in this version",
                "12:5: 'labels' is ignored: a service of a local environment is a process of this machine",
                "13:14: the limit of 3 restarts is ignored: it isn't in this version",
                "15:39: 'mode' is ignored: a service of a local environment is a process of this machine",
                "15:51: 'nam' is ignored: it isn't a key of a port. Did you mean 'name'?",
                "10:14: the variable 'GONE' isn't set: it is empty here",
            ]
        )
        #expect(file.services.first?.command == ["a", "&&", "b"])
    }

    @Test func servicesThatAreRedirected() throws {
        let file = try parse(
            """
            services:
              here: {command: x, x-kl: {divert: redirect}, ports: ['80:80']}
              there: {command: x, x-kl: {netns: /run/netns/blue, nets: 1}, ports: ['80:80']}
              plain: {command: x, x-kl: {divert: listen}, ports: ['8080:8081']}
            """
        )
        #expect(
            file.services.map(\.diversion) == [.redirect(netns: nil), .redirect(netns: "/run/netns/blue"), .listen]
        )
        #expect(
            file.warnings.map(withoutPath) == [
                "3:54: 'nets' is ignored: it isn't a key of 'x-kl'. Did you mean 'netns'?"
            ]
        )
    }
}
