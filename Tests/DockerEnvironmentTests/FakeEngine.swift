import Environments
import HostSupport
import InterceptModel
import Libc

@testable import DockerEnvironment

/// A `docker` of the tests' own: a script that keeps containers as folders. `mkdir` decides who gets a name or a lock, so that
/// several processes can race for them.
final class FakeEngine: Sendable {
    let folder: String

    /// - Parameter services: each one's number of replicas.
    init(services: [String: Int]) throws {
        var template = Array("/tmp/kl-fake-docker-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw HostError("no folder", code: errno) }
        self.folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        // Another process makes what is executed: a child that is forked here at this moment would have it open for writing,
        // and until that child's own exec nobody could execute it (ETXTBSY).
        try self.write("script", Self.script)
        let copied = BoundedCommand.run(
            "/usr/bin/install",
            ["-m", "700", "\(self.folder)/script", "\(self.folder)/docker"],
            within: 60_000
        )
        guard copied?.code == 0 else { throw HostError("no docker", code: EIO) }
        for name in ["services", "sidecars"] { mkdir("\(self.folder)/\(name)", 0o700) }
        for (service, count) in services {
            for number in 1...count { try self.add(service, number) }
        }
    }

    deinit { _ = try? Spawn("/bin/rm", ["-rf", self.folder]).start() }

    func add(_ service: String, _ number: Int) throws {
        let labels = """
            {"com.docker.compose.project":"shop","com.docker.compose.service":"\(service)",\
            "com.docker.compose.container-number":"\(number)"}
            """
        try self.write(
            "services/\(service)\(number)",
            """
            {"id":"\(service)\(number)","name":"/shop-\(service)-\(number)","labels":\(labels),"exposed":{"80/tcp":{},"81/tcp":{}},\
            "mode":"shop_default","status":"running","started":"2026-11-23T17:00:00Z","ports":{},"networks":{}}

            """
        )
    }

    func write(_ name: String, _ text: String) throws {
        let file = open("\(self.folder)/\(name)", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw HostError("no \(name)", code: errno) }
        defer { close(file) }
        let bytes = Array(text.utf8)
        guard Libc.write(file, bytes, bytes.count) == bytes.count else { throw HostError("no \(name)", code: errno) }
    }

    func read(_ name: String) -> String {
        ((try? SmallFile.read("\(self.folder)/\(name)")) ?? nil).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

    /// What was asked of the engine so far, without the flags that select it.
    var calls: [String] { self.read("calls").split(separator: "\n").map(String.init) }

    /// `KEY LABEL KIND PORTS` of each holder at a sidecar, sorted.
    func holders(_ sidecar: String) -> [String] {
        self.read("sidecars/\(sidecar)/holders").split(separator: "\n").map(String.init).sorted()
    }

    /// Each workspace has a view of the engine of its own, as if it were on another machine.
    func environment(of workspace: String) throws -> DockerEnvironment {
        let variables = ["PATH": "\(self.folder):/usr/bin:/bin", "FAKE": self.folder, "WORKSPACE": workspace]
        let engine = DockerEngine(host: "unix:///fake", variables: variables)
        return try DockerEnvironment(DockerPlace(.project("shop"), engine: engine).reference)
    }

    private static let script = #"""
        #!/bin/sh
        shift 2 # --host HOST
        cd "$FAKE" || exit 125
        printf '%s\n' "$*" >>calls
        verb=$1
        shift

        # KEY LABEL KIND PORTS of a line KEY label=… may=… claim=KIND:PORTS
        holder() {
            key=$1 label= claim=
            shift
            for word; do
                case $word in
                label=* | --label=*) label=${word#*=} ;;
                claim=* | --claim=*) claim=${word#*=} ;;
                esac
            done
            kind=${claim%%:*} ports=${claim#*:}
        }

        report() {
            printf '{"ready":true,"publicKey":"%s","tcp":"0.0.0.0:4711","listen":{},"holders":[' "$(cat "sidecars/$1/public")"
            comma=
            while read -r key label kind ports; do
                printf '%s{"key":"%s","workspace":"%s","kind":"%s","ports":["%s"],"since":"2026-11-23T18:00:00Z",' \
                    "$comma" "$key" "$label" "$kind" "$(echo "$ports" | sed 's/,/","/g')"
                printf '"isServed":true,"open":1,"total":2,"passed":3,"behind":4}'
                comma=,
            done <"sidecars/$1/holders"
            printf ']%s}\n' "$2"
        }

        lock() {
            until mkdir "sidecars/$1/lock" 2>/dev/null; do
                [ -d "sidecars/$1" ] || missing "$1"
                sleep 0.01
            done
            trap "rmdir 'sidecars/$1/lock' 2>/dev/null" EXIT
        }

        missing() {
            echo "Error response from daemon: No such container: $1" >&2
            exit 1
        }

        case $verb in
        ps)
            for file in services/*; do echo "[\"${file#*/}\",\"shop\",\"\",\"\",\"x\"]"; done
            for folder in sidecars/*/line; do
                [ -e "$folder" ] || continue
                name=${folder#*/} name=${name%/line}
                echo "[\"$name\",\"\",\"shop\",\"\",\"$name\"]"
            done
            ;;
        container)
            shift 3 # inspect --format FORMAT
            for id; do cat "services/$id" 2>/dev/null || cat "sidecars/$id/line" 2>/dev/null || echo "No such object: $id" >&2; done
            ;;
        version) echo Engine ;;
        image) echo "image-of-${4#*:}" ;;
        run)
            labels=
            while [ $# -gt 0 ]; do
                case $1 in
                --name) name=$2 ;;
                --network) network=$2 ;;
                --label) labels="$labels,\"${2%%=*}\":\"${2#*=}\"" ;;
                --peer) peer=$2 ;;
                kl-sidecar:*) image=${1#*:} ;;
                esac
                shift
            done
            mkdir "sidecars/$name" 2>/dev/null || {
                echo "Conflict. The container name \"/$name\" is already in use by container \"x\"." >&2
                exit 125
            }
            # A container's name is taken some time before its program runs.
            sleep 0.1
            head -c 32 /dev/urandom | base64 >"sidecars/$name/public"
            # shellcheck disable=SC2086
            holder $peer
            echo "$key $label $kind $ports" >"sidecars/$name/holders"
            printf '{"id":"%s","name":"/%s","imageID":"image-of-%s","labels":{%s},"mode":"%s","status":"running","started":"%s"}\n' \
                "$name" "$name" "$image" "${labels#,}" "$network" "$(date -u +%Y-%m-%dT%H:%M:%S.%NZ)" >"sidecars/$name/new"
            mv "sidecars/$name/new" "sidecars/$name/line"
            # What others do meanwhile.
            [ ! -e on-run ] || . ./on-run
            report "$name"
            ;;
        exec)
            id=$1 question=$3
            shift 3
            [ -e "sidecars/$id/line" ] || missing "$id"
            lock "$id"
            case $question in
            admit)
                holder "$@"
                case " $* " in *" --force "*) force=1 ;; *) force= ;; esac
                mine=",$ports,"
                [ "$kind" = mirror ] || while read -r other by how theirs; do
                    [ "$how" = intercept ] && [ "$other" != "$key" ] || continue
                    for port in $(echo "$theirs" | tr , ' '); do
                        case $mine in *,$port,*) busy=$by ousted=$other ;; esac
                    done
                done <"sidecars/$id/holders"
                if [ -n "${busy-}" ] && [ -z "$force" ]; then
                    echo "{\"admitted\":false,\"code\":\"busy\",\"holder\":\"$busy\",\"since\":\"2026-11-23T18:00:00Z\"}"
                    exit 1
                fi
                grep -v "^$key \|^${ousted:-none} " "sidecars/$id/holders" >"sidecars/$id/new"
                echo "$key $label $kind $ports" >>"sidecars/$id/new"
                mv "sidecars/$id/new" "sidecars/$id/holders"
                report "$id" ',"admitted":true'
                ;;
            leave)
                grep -v "^$1 " "sidecars/$id/holders" >"sidecars/$id/new"
                mv "sidecars/$id/new" "sidecars/$id/holders"
                if [ -s "sidecars/$id/holders" ]; then
                    echo '{"left":true,"isLast":false}'
                else
                    echo '{"left":true,"isLast":true}'
                    rm -rf "sidecars/$id"
                fi
                ;;
            end)
                # --if-unused --except=KEY
                others=$(grep -v "^${2#*=} " "sidecars/$id/holders" | cut -d ' ' -f 2)
                if [ -n "$others" ]; then
                    echo "{\"ending\":false,\"reason\":\"others need it: $(echo $others | tr ' ' ,)\"}"
                    exit 1
                elif [ -e "sidecars/$id/open" ]; then
                    echo '{"ending":false,"reason":"it still passes on 2 connections"}'
                    exit 1
                fi
                echo '{"ending":true}'
                rm -rf "sidecars/$id"
                ;;
            holders) report "$id" ;;
            esac
            ;;
        logs)
            while [ $# -gt 1 ]; do shift; done
            [ -e "sidecars/$1/line" ] && report "$1"
            ;;
        rm)
            shift
            for id; do rm -rf "sidecars/$id"; done
            ;;
        esac
        exit 0
        """#
}
