import Testing

/// Whole projects for both readers: what a file says, and what the others beside it do to it.
enum ComposeProjects {
    struct Project: CustomTestStringConvertible {
        var name: String
        var files: [String: String]
        var testDescription: String { self.name }
    }

    static let all = [
        Project(
            name: "every kind of merging",
            files: [
                "compose.yaml": """
                services:
                  a:
                    image: x
                    command: [x]
                    entrypoint: [y]
                    restart: always
                    working_dir: /a
                    env_file: [a.env, b.env]
                    ports: ["8080:81", "8082:83", "127.0.0.1:8090:91"]
                    depends_on: [b]
                    environment: {A: 1, B: 2, D: 4}
                  b: {image: b, command: [b], environment: [L=1, M=2]}
                  c: {image: c, command: [c]}
                """,
                "compose.override.yaml": """
                services:
                  a:
                    command: z 1
                    restart:
                    env_file: a.env
                    ports: ["8080:81/tcp", {target: 84, published: 8084}, "8085:85"]
                    depends_on: {c: {condition: service_healthy, required: false}}
                    environment: {A: !reset null, B: , C: 3, D: !override 9}
                  b: {environment: {L: "2", M: 3, N}, stop_grace_period: 1m30s}
                  d: {image: d, command: d}
                """,
                "a.env": "F=a\n", "b.env": "F=b\nB=file\n",
            ]
        ),
        Project(
            name: "reset and override",
            files: [
                "compose.yml": "services: {no: {image: no}}",
                "compose.yaml": """
                services:
                  a: {image: x, command: [x], ports: ["8080:81"], environment: {A: 1}, depends_on: [b]}
                  b: {image: b, command: [b]}
                  c: {image: c, command: [c, !reset d, e], ports: !reset ["8082:83"], environment: [!reset "X=1", Y=2]}
                """,
                "docker-compose.override.yml": """
                services:
                  a: {ports: !override ["8081:81"], environment: !reset {}, depends_on: !override [c]}
                  b: !reset
                  c: !override {image: d, command: [d, f]}
                """,
            ]
        ),
        Project(
            name: "names",
            files: [
                "compose.yaml": "name: ${N:-one}\nservices: {a: {image: x, command: ['${COMPOSE_PROJECT_NAME}']}}",
                "compose.override.yml": "name: two\nservices: {a: {environment: {P: $COMPOSE_PROJECT_NAME}}}",
                ".env": "N=three\n",
            ]
        ),
        Project(
            name: "the variable names it",
            files: [
                "compose.yaml":
                    "name: one\nservices: {a: {image: x, command: ['${COMPOSE_PROJECT_NAME}'], env_file: e}}",
                ".env": "COMPOSE_PROJECT_NAME=other\n", "e": "X=${COMPOSE_PROJECT_NAME}\n",
            ]
        ),
        Project(
            name: "files of variables",
            files: [
                "compose.yaml": """
                services:
                  a:
                    image: x
                    command: [x]
                    env_file: [{path: none, required: False}, {path: raw, format: raw}, {path: e, required: "yes"}, f, e]
                    environment: {OWN: own, UNSET: }
                """,
                "raw": "R=\"$A\" # b\nS\nA\n  T= t \n", "e": "E=${R}-${OWN}-${A}\nUNSET=1\nOWN=2\n",
                "f": "E=f\nF=${E}\nNAME: value\nLINES=\"one\ntwo\"\nA\n",
            ]
        ),
        Project(
            name: "anchors and scalars",
            files: [
                "compose.yaml": """
                x-a: &a {image: x, command: [x], environment: &e {A: 1.10, B: 010, C: True, D: yes, E: 0x1F, F: 1e3}}
                services:
                  a: {<<: *a}
                  b: {<<: *a, environment: {<<: *e, A: !!str 1.10, G: null, H: ~, I: "", J: 1_000, K: .5}}
                  c: {<<: [*a], command: "a 'b c' \\"d\\""}
                """
            ]
        ),
    ]
}
