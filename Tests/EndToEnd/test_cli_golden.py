"""What kl says to the daemon, and what it prints of each answer, byte for byte beside the committed texts in golden/.

After a change that is meant: KL_STORE_GOLDEN=1 pytest Tests/EndToEnd/test_cli_golden.py, and read the difference.
"""

import contextlib
import json
import os
import pathlib
import pwd
import re
import socket
import subprocess

import pytest
from harness.cli import in_folder
from harness.played_daemon import PlayedDaemon

GOLDEN = pathlib.Path(__file__).with_name("golden")


def compare(name, text):
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("KL_STORE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def public_key(ada):
    with open(ada.home / "private.key") as key:
        return subprocess.run([ada.binaries / "kl", "pubkey"], stdin=key, capture_output=True, text=True).stdout.strip()


class Golden:
    """A file of entries: what was run, what kl sent, its code, and what it printed."""

    def __init__(self, name, project, ada):
        self.name, self.project, self.ada, self.text = name, project, ada, ""
        self.names = {str(project.folder): "FOLDER", str(ada.home): "HOME", str(project.port()): "PORT"}
        key = public_key(ada)
        label = f"{pwd.getpwuid(os.geteuid()).pw_name}@{socket.gethostname()}"
        self.names |= {key: "KEY", f"{key[:4]}…{key[-3:]}": "SHORT", f"{label} (you)": "LABEL (you)", label: "LABEL", "WORKSPACE": "WORKSPACE"}
        version = ada.ok("version").out.split()[1].rstrip(",")
        self.daemon = PlayedDaemon(ada.home, version)

    def run(self, *arguments, **lines):
        self.daemon.lines, self.daemon.heard = lines, []
        ran = self.ada.run(*arguments)
        sent = [json.dumps(request, sort_keys=True) for request in self.daemon.heard if "status" not in request]
        told = "".join(f"{name}: {json.dumps(reply)}\n" for name, replies in lines.items() for reply in replies)
        self.text += f"=== kl {' '.join(map(str, arguments))}\n{told}"
        self.text += "".join(f"--- sent: {line}\n" for line in sent)
        self.text += f"--- code {ran.code}, output:\n{ran.out}--- error:\n{ran.error}"

    def check(self):
        for found, name in self.names.items():
            # Columns are as wide as what stood there.
            self.text = re.sub(re.escape(found) + "( {3})? *", lambda match: name + (match[1] or match[0][len(found) :]), self.text)
        compare(self.name, self.text)


@pytest.fixture
def golden(demo, closing, request):
    """With the daemon's place taken by one that plays."""
    project, ada = demo
    ada.ok("intercept", "list")
    made = Golden(request.function.__name__.removeprefix("test_"), project, ada)
    closing(made.daemon)
    return made


SIDECAR = {
    "name": "api-server-1",
    "phase": "Active",
    "publicKey": "3Jx5AAAAAAAAAA4Q=",
    "carrier": "udp",
    "address": "127.0.0.1:51820",
    "listens": ["127.0.0.1:8080"],
    "messagesSent": 10211,
    "messagesLost": 3,
    "rttMs": 0.312,
    "handshakeAgeSeconds": 12.5,
    "mtu": 1452,
    "carrierChanges": 1,
}
# As a daemon that knows fewer fields has it.
PLAIN_SIDECAR = {name: SIDECAR[name] for name in list(SIDECAR)[:8]} | {"carrier": "tcp"}
COMMAND = SIDECAR | {"carrier": "exec", "address": "docker exec --interactive 0123456789abcdef kl-sidecar dial --verbose"}
TCP = {"service": 8080, "host": "127.0.0.1", "port": 3000}
UDP = {"service": 53, "transport": "udp", "host": "::1", "port": 5353}
# Other kinds of time can't be read, and would be another at each run.
SINCE = "long ago"


def step(name, seconds=0.25, **more):
    return {"step": {"_0": {"name": name, "seconds": seconds, "sidecars": [], **more}}}


def status(phase="Active", environment=None, **more):
    return {
        "environment": environment or {"kind": "local", "name": "demo", "location": "/x"},
        "service": "api-server",
        "phase": phase,
        "phaseSince": SINCE,
        "since": SINCE,
        "generation": 7,
        "mappings": [TCP, UDP],
        "missingLocalServers": [],
        "open": 1,
        "total": 10211,
        "passed": 3,
        "bytesIn": 13002342,
        "bytesOut": 999,
        "sidecars": [SIDECAR],
        **more,
    }


def done(**more):
    return {"done": {"_0": status(**more)}}


def failed(code, message="it is so\u001b and so. Do this."):
    return {"failed": {"_0": {"code": code, "message": message}}}


CODES = ("failed", "notUp", "noSuchService", "noSuchIntercept", "busy")
TOO_MANY = [
    step("waitsForDrain", 0),
    step("sidecarRunning"),
    step("tunnelUp", 1.5, sidecars=[SIDECAR, PLAIN_SIDECAR, COMMAND]),
    step("portMapped", 0, mapping=TCP),
    step("portMapped", 0, mapping=UDP),
    step("localServerMissing", 0, mapping=TCP),
    step("localServerMissing", 0, mapping=TCP | {"service": 9090}),
    step("localServerMissing", 0, mapping=UDP),
    # Not of a start.
    step("originalAnswers"),
    step("drained", connections=3, reset=1),
    done(),
]


def test_start(golden):
    start = ("intercept", "start", "api-server", "-p", f"{golden.project.port()}:3000")
    for more in ([], ["-q"], ["--on-unavailable", "refuse"], ["-o", "json"], ["-o", "yaml"]):
        golden.run(*start, *more, start=TOO_MANY)
    for sidecars in ([], [PLAIN_SIDECAR], [COMMAND], [SIDECAR, SIDECAR]):
        golden.run(*start, start=[step("sidecarRunning"), step("tunnelUp", sidecars=sidecars), done()])
    flags = ("--drain", "1m", "--probes", "workspace", "--proxy-protocol", "v2", "--force", "--sidecar-image", "i:1")
    golden.run(*start, *flags, "--carrier", "udp", "--endpoint", "[::1]:51820", start=[done()])
    for carrier in ("auto", "tcp", "exec"):
        golden.run(*start, "--carrier", carrier, start=[done()])
    golden.run(*start, "--endpoint", "localhost:1", start=[done()])
    golden.run(*start[:3], "--all-ports", "--drain", "0", start=[done()])
    golden.check()


def test_start_that_fails(golden):
    start = ("intercept", "start", "api-server", "-p", f"{golden.project.port()}:3000")
    for code in CODES:
        golden.run(*start, start=[step("sidecarRunning"), failed(code)])
    golden.run(*start, "-o", "json", start=[failed("busy")])
    golden.run(*start, "-o", "yaml", start=[failed("notUp")])
    golden.run(*start, start=[{"done": {}}])
    golden.run(*start, start=[step("sidecarRunning"), None])
    golden.check()


def test_foreground(golden):
    start = ("intercept", "start", "api-server", "-p", f"{golden.project.port()}:3000", "--foreground")
    changes = [
        status(),
        status(missingLocalServers=[8080], missingDatagramServers=[53]),
        status(missingLocalServers=[8080], onUnavailable="refuse"),
        status(),
        status(missingLocalServers=[8080], onUnavailable="refuse"),
        status("Degraded", reason="the tunnel is down\u001b"),
    ]
    for last in (status("Failed", reason="taken over by eve\u0007"), status("Stopping")):
        told = [{"changed": {"_0": change}} for change in [*changes, last]]
        golden.run(*start, start=[step("sidecarRunning"), done()], follow=told)
    golden.run(*start, start=[done()], follow=[failed("noSuchIntercept")])
    golden.run(*start, "-q", start=[done()], follow=[{"changed": {"_0": status("Failed")}}])
    golden.check()


def test_stop(golden):
    mine = {"intercepts": {"_0": [status(environment=json.loads((golden.ada.home / "connected.json").read_text()))]}}
    stop = ("intercept", "stop", "api-server")
    outcomes = [
        [step("originalAnswers"), step("drained", connections=0, reset=0), done(phase="Stopping")],
        [step("originalAnswers"), step("drained", 10, connections=3, reset=1), done(phase="Stopping")],
        [step("originalAnswers"), step("drained", 1, connections=1, reset=0), done(phase="Stopping")],
        [step("nothingAnswers", reason="exited with\u001b code 1"), step("drained"), done(phase="Stopping")],
        [step("nothingAnswers"), step("drained", connections=2, reset=3), {"done": {}}],
        [step("sidecarRunning"), step("originalAnswers"), done()],
        *[[step("originalAnswers"), failed(code)] for code in CODES],
        [None],
    ]
    for outcome in outcomes:
        golden.run(*stop, stop=outcome, status=[mine])
    for form in ("json", "yaml"):
        golden.run(*stop, "-o", form, stop=outcomes[1], status=[mine])
        golden.run(*stop, "-o", form, stop=outcomes[3], status=[mine])
        golden.run(*stop, "-o", form, stop=outcomes[-2], status=[mine])
    golden.run(*stop, "--drain", "90s", stop=outcomes[0], status=[mine])
    golden.run(*stop[:2], "--all", stop=outcomes[0], status=[mine])
    golden.run(*stop[:2], "--all", "-q", stop=[failed("busy")], status=[mine])
    golden.check()


def test_lists(golden):
    here = json.loads((golden.ada.home / "connected.json").read_text())
    many = [
        status(environment=here, onUnavailable="original", missingLocalServers=[8080], missingDatagramServers=[53]),
        status("Degraded", environment=here, service="b", reason="the tunnel is down", sidecars=[PLAIN_SIDECAR]),
        status("Pending", environment=here, service="c", sidecars=[]),
        status("Failed", environment=here, service="d", reason="taken over by eve"),
        status(environment=here, service="e", onUnavailable="refuse", missingLocalServers=[8080], sidecars=[COMMAND]),
        status(service="elsewhere"),
    ]
    for intercepts in ([], many):
        told = {"status": [{"intercepts": {"_0": intercepts}}]}
        golden.run("intercept", "list", "-q", **told)
        golden.run("intercept", "list", "-o", "json", **told)
        golden.run("intercept", "status", **told)
        golden.run("intercept", "status", "e", "-o", "yaml", **told)
        golden.run("env", "status", **told)
    golden.run("intercept", "list", status=[failed("busy")])
    golden.run("intercept", "list", status=[None])
    golden.check()


def test_requests_that_are_refused(demo):
    """By the daemon itself, whatever program sends them: one reply, or the connection's end."""
    project, ada = demo
    environment = json.loads((ada.home / "connected.json").read_text())
    good = {
        "environment": environment,
        "service": "api-server",
        "mappings": [TCP],
        "onUnavailable": "original",
        "probes": "original",
        "drainSeconds": 10,
        "force": False,
    }
    changes = [
        {"service": ""},
        {"service": "s" * 257},
        {"mappings": []},
        {"mappings": [TCP | {"port": 0}]},
        {"mappings": [TCP | {"service": 0}]},
        {"mappings": [TCP | {"host": ""}]},
        {"mappings": [TCP | {"port": 65536}]},
        {"mappings": [TCP | {"transport": "sctp"}]},
        {"mappings": [TCP, TCP | {"transport": "tcp"}]},
        {"drainSeconds": 601},
        {"drainSeconds": -1},
        {"drainSeconds": None},
        {"onUnavailable": "never"},
        {"probes": ""},
        {"proxyProtocol": "v3"},
        {"carrier": "pigeon"},
        {"endpoint": "nowhere"},
        {"endpoint": "127.0.0.1:0"},
        {"endpoint": "127.0.0.1:1", "carrier": "exec"},
        {"sidecarImage": "-x"},
        {"sidecarImage": ""},
        # What is wrong first is said.
        {"service": "", "carrier": "pigeon"},
        {"carrier": "pigeon", "drainSeconds": 601},
        {"probes": "x", "endpoint": "x"},
    ]
    requests = [{"start": {"_0": good | change}} for change in changes]
    requests += [{"stop": {"_0": {"environment": environment, "service": "nobody"}}}, {"follow": {"service": "nobody"}}]
    requests += [{"unheardOf": {}}, {"start": {}}, [], "status"]
    # Any start begins the daemon, which stays a minute.
    ada.ok("intercept", "start", "api-server", "-p", f"{project.port()}:1")
    ada.ok("intercept", "stop", "api-server")
    text = ""
    for request in requests:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            with in_folder(ada.home) as name:
                connection.connect(f"{name}/daemon.sock")
            lines = connection.makefile("rb")
            lines.readline()
            connection.sendall(json.dumps(request).encode() + b"\n")
            reply = b""
            with contextlib.suppress(ConnectionResetError):
                reply = lines.readline()
            # Its keys come in any order.
            reply = json.dumps(json.loads(reply), sort_keys=True) if reply else "the end"
            text += f"=== {json.dumps(request)}\n{reply}\n"
    compare("requests_that_are_refused", text.replace(str(project.folder), "FOLDER"))
