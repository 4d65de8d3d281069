"""A sidecar that diverts in the network namespace of a process which knows nothing of it: on a plain host, without Docker."""

import json
import signal
import socket
import subprocess
import sys

import pytest

from harness.cable import Cable, RedirectingAgents
from harness.docker_project import PROGRAMS
from harness.keys import KeyPair
from harness.machine import needs_root
from harness.ports import free_port
from harness.waiting import eventually
from harness.web import WebServer

V4, V6 = "10.111.0.2", "fd6b:6c00:111::2"


class Pair(Cable):
    """A web service's network and a client's."""

    def __init__(self, processes):
        super().__init__(111)
        command = [*self.service.prefix, sys.executable, "-B", PROGRAMS / "who_server.py"]
        self.original = processes.start("original", [*command, "--name", "original", "--port", "8080"])
        self.original.first_line(30)

    def who(self, address=V4, machine=None, timeout=3, port=8080):
        command = [sys.executable, "-B", "-S", PROGRAMS / "load.py", "--once", "--host", address, "--port", str(port)]
        said = (machine or self.client).run(*command, "--timeout", timeout, check=False)
        return said.split()[0] if said else None


@pytest.fixture
def pair(processes, closing):
    needs_root()
    return closing(Pair(processes))


@pytest.fixture
def run(pair, processes, binaries, folder):
    """Starts a sidecar in the service's namespace, and a workspace for it with a server of its own."""
    agents = RedirectingAgents(processes, binaries, folder, pair.service)
    command = [sys.executable, "-B", PROGRAMS / "who_server.py", "--name", "ada", "--host", "127.0.0.1", "--port"]

    def start(*flags, workspace=()):
        port = free_port()
        processes.start("ada", [*command, port]).first_line(30)
        sidecar = agents.start_sidecar(8080, flags=flags)
        return sidecar, agents.start_workspace(f"8080:{port}", flags=workspace)

    return start


def test_taken_in_the_services_namespace_and_given_back(pair, run):
    before = pair.rules()
    assert pair.who() == pair.who(V6) == "original"
    sidecar, workspace = run()
    assert pair.who() == pair.who(V6) == "ada"
    # From inside: the own address is the workspace, localhost the original.
    assert pair.who(machine=pair.service) == "ada"
    assert pair.who("127.0.0.1", machine=pair.service) == pair.who("::1", machine=pair.service) == "original"
    workspace.stop()
    assert pair.who() == pair.who(V6) == "original"
    sidecar.stop()
    assert pair.rules() == before


def test_localhost_too_where_it_is_wanted(pair, run):
    run("--loopback", "workspace")
    assert pair.who("127.0.0.1", machine=pair.service) == pair.who("::1", machine=pair.service) == "ada"


def test_killed_it_leaves_nothing(pair, run):
    before = pair.rules()
    sidecar, _ = run()
    assert "table inet kl_" in pair.rules()
    sidecar.kill()
    assert pair.who() == "original"
    assert pair.rules() == before


def test_stopped_it_loses_its_rules(pair, run):
    sidecar, _ = run()
    sidecar.freeze()
    eventually("the original answers: a sidecar in a namespace is stopped", lambda: pair.who(timeout=1) == "original", 10)
    sidecar.thaw()
    eventually("it diverts again", lambda: pair.who() == "ada", 5)


def test_with_its_workspace_gone_the_original_answers(pair, run):
    _, workspace = run()
    assert "dnat to" in pair.rules()
    workspace.kill()
    eventually("the original answers: the workspace is killed", lambda: pair.who(timeout=1) == "original", 2)
    eventually("no redirect is left", lambda: "dnat to" not in pair.rules(), 2)


def test_when_the_namespaces_process_ends_so_does_an_ephemeral_one(pair, run):
    sidecar, _ = run("--ephemeral")
    pair.client.run("ip", "link", "delete", "v0")
    assert sidecar.process.wait(60) == 0


def listeners(pair):
    """The ports on which somebody listens in the service's namespace, but for the service's own."""
    lines = pair.service.run("ss", "-Hltn").splitlines()
    return {int(line.split()[3].rsplit(":", 1)[1]) for line in lines} - {8080}


def test_whoever_calls_a_listener_itself_is_reset(pair, run):
    run()
    (port,) = listeners(pair)
    for machine, address in ((pair.client, V4), (pair.client, V6), (pair.service, "127.0.0.1"), (pair.service, V4)):
        assert pair.who(address, machine, port=port) is None
    assert pair.who() == "ada"


def test_nobody_else_changes_its_table(pair, run):
    _, workspace = run()
    pair.service.run("nft", "flush", "ruleset")
    assert pair.who() == "ada"
    table = pair.rules().split()[2]
    assert table.startswith("kl_")
    pair.service.run("nft", "delete", "table", "inet", table, check=False)
    assert pair.who() == "ada"
    workspace.stop()
    assert pair.who() == "original"
    # It goes with the last connection that it translates.
    eventually("no rule is left", lambda: "kl_" not in pair.rules(), 2)


OTHERS = """
table inet others {
    counter hits { }
    quota much { over 10 mbytes; }
    set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.9.0.0/16 . 1-9 }; }
    map ways { type inet_service : verdict; elements = { 1 : drop, 2 : jump aside }; }
    chain aside { counter name hits; }
    chain prerouting { type nat hook prerouting priority -100; tcp dport vmap @ways; }
}
table ip kl-others { chain input { type filter hook input priority 0; ip saddr . tcp dport { 10.9.0.1 . 1 } drop; }; }
table bridge kl_bridge { chain forward { type filter hook forward priority 0; }; }
table netdev kl_netdev { chain from { type filter hook ingress device eth0 priority 0; }; }
"""


def test_rules_of_others_are_left_alone(pair, run, binaries):
    """The sidecar reads none of them, and needs no library that would."""
    pair.service.run("nft", "-f", "-", input=OTHERS)
    before = pair.rules()
    sidecar, workspace = run()
    assert pair.who() == "ada"
    workspace.stop()
    assert pair.who() == "original"
    assert sidecar.stop() == 0
    assert pair.rules() == before
    maps = subprocess.run(["ldd", binaries / "kl-sidecar"], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in maps and "libnftables" not in maps and "libmnl" not in maps


def test_a_table_that_an_earlier_sidecar_left_goes(pair, run):
    pair.service.run("nft", "-f", "-", input="table inet kl_left { set live { type inet_service; }; }\ntable ip kl_left { }\n")
    sidecar, _ = run()
    assert "table inet kl_left" not in pair.rules() and "table ip kl_left" in pair.rules()
    assert pair.who() == "ada"
    assert sidecar.stop() == 0


def test_what_was_open_before_is_ended_but_for_the_loopback(pair, run, closing):
    """Also the end in the service's own process, which would otherwise wait for ever."""

    def held(machine, address):
        command = f"import socket,sys\nc=socket.create_connection(({address!r},8080))\nprint('open',flush=True)\n"
        command += "try:\n    print('end' if not c.recv(1) else 'bytes',flush=True)\nexcept OSError as e:\n    print(e.strerror,flush=True)"
        words = [*machine.prefix, sys.executable, "-c", command]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "open\n"
        return child

    outside = [held(pair.client, V4), held(pair.client, V6), held(pair.service, V4)]
    inside = [held(pair.service, "127.0.0.1"), held(pair.service, "::1")]
    try:
        _, workspace = run()
        # The workspace's drain time is ten seconds.
        for child in outside:
            assert child.poll() is None
        for child in outside:
            assert "reset" in child.stdout.readline().lower()
        lines = pair.service.run("ss", "-Htn", "state", "established", "sport = :8080").splitlines()
        assert len(lines) == len(inside), lines
        assert all(child.poll() is None for child in inside)
        workspace.stop()
    finally:
        for child in outside + inside:
            child.kill()
            child.wait()


@pytest.mark.parametrize("netns, word", [("/nothing/there", "/nothing/there"), ("pid:4194304", "4194304"), ("pid:x", "pid:x")])
def test_a_namespace_that_is_none(pair, binaries, netns, word):
    flags = ["--netns", netns, "--listen-tcp", "127.0.0.1:0", "--divert", "redirect", "--service-port", "8080"]
    done = subprocess.run(
        [binaries / "kl-sidecar", "run", *flags, "--peer", KeyPair().public], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (1, 2) and word in done.stderr, done


def test_signals_reach_it_there(pair, run):
    sidecar, _ = run()
    sidecar.process.signal(signal.SIGTERM)
    assert sidecar.process.wait(60) == 0
    assert pair.who() == "original"


def compose(folder, service, port, options):
    """A project of one service; what is in the way of its sidecar stands in the file."""
    folder.mkdir()
    lines = [
        "name: demo",
        "services:",
        "  api:",
        f"    command: {json.dumps([str(word) for word in service])}",
        f"    ports: ['{port}:{port}']",
        f"    x-kl: {json.dumps(options)}",
    ]
    (folder / "compose.yaml").write_text("\n".join(lines) + "\n")
    return folder


def test_a_service_of_a_local_environment_that_has_a_namespace(pair, make_developer, closing, folder):
    before = pair.rules()
    server = [sys.executable, "-B", PROGRAMS / "who_server.py", "--name", "there", "--port", 8081]
    path = f"/proc/{pair.service.pid}/ns/net"
    project = compose(folder / "project", [*pair.service.prefix, *server], 8081, {"netns": path})
    ada = make_developer("ada", project)
    ada.ok("env", "connect", "demo")
    eventually("the service runs: in a namespace of its own", lambda: pair.who(port=8081) == "there", 3, pause=0.1)
    mine = closing(WebServer("mine"))
    ada.ok("intercept", "start", "api", "-p", f"8081:{mine.address[1]}")
    assert pair.who(port=8081) == pair.who(V6, port=8081) == "mine"
    assert pair.who("127.0.0.1", machine=pair.service, port=8081) == "there"
    assert ada.phase("api") == "Active"
    ada.ok("intercept", "stop", "api")
    assert pair.who(port=8081) == "there"
    assert pair.rules() == before
    ada.ok("env", "down")
    assert pair.who(port=8081) is None


def test_a_service_of_a_local_environment_that_keeps_its_port(pair, make_developer, folder):
    # All of it in a machine of its own, whose rules are in nobody's way.
    machine = pair.client
    server = [sys.executable, "-B", PROGRAMS / "who_server.py", "--name", "here", "--port", 8082]
    project = compose(folder / "project", server, 8082, {"divert": "redirect"})
    ada = make_developer("ada", project, prefix=machine.prefix)
    ada.ok("env", "connect", "demo")
    command = [*machine.prefix, *server[:-3], "mine", "--port", "8083"]
    mine = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)
    try:
        assert mine.stdout.readline()
        for address in ("127.0.0.1", "10.111.0.1"):
            assert pair.who(address, machine, port=8082) == "here"
        ada.ok("intercept", "start", "api", "-p", "8082:8083")
        for address in ("127.0.0.1", "10.111.0.1"):
            assert pair.who(address, machine, port=8082) == "mine"
        assert pair.who("10.111.0.1", pair.service, port=8082) == "mine"
        ada.ok("intercept", "stop", "api")
        assert pair.who("127.0.0.1", machine, port=8082) == "here"
    finally:
        mine.kill()
        mine.wait()
    ada.ok("env", "down")


OBSTACLES = {
    "at the start": ("ip rule add pref 20000 fwmark 0x2068 lookup 99", "mark 0x2068"),
    "by the first client": ("ip rule add pref 3 from 10.111.0.2 lookup main", "doesn't come back"),
    "none": None,
}


@pytest.mark.parametrize("shows", OBSTACLES)
def test_kl_says_which_address_the_original_sees(pair, make_developer, closing, folder, shows):
    """At the start, where it is known by then; otherwise once the sidecar has passed a client on."""
    obstacle, reason = OBSTACLES[shows] or ("true", "sees")
    pair.service.run(*obstacle.split())
    server = [sys.executable, "-B", PROGRAMS / "who_server.py", "--name", "there", "--port", 8081]
    project = compose(
        folder / "project", [*pair.service.prefix, *server], 8081, {"netns": f"/proc/{pair.service.pid}/ns/net"}
    )
    ada, eve = make_developer("ada", project), make_developer("eve", project)
    for developer in (ada, eve):
        developer.ok("env", "connect", "demo")
    eventually("the service runs", lambda: pair.who(port=8081) == "there", 30, pause=0.1)
    mine = closing(WebServer("mine"))
    # Of a mirror's port, the sidecar passes each client on.
    began = ada.ok("intercept", "start", "api", "-p", f"8081:{mine.address[1]}", "--mirror")
    assert ("the original sees" in began.error) == (shows == "at the start"), began
    assert (reason in began.error) == (shows == "at the start"), began
    assert pair.who(port=8081) == "there"

    def seen(developer):
        (holder,) = developer.holders()
        return holder["originalSees"]

    if shows == "none":
        assert seen(ada) == seen(eve) == {"whose": "client"}
    else:
        for developer in (ada, eve):
            eventually("the reason is told", lambda d=developer: reason in seen(d).get("reason", ""), 30, pause=0.1)
            assert seen(developer)["whose"] == "sidecar"
    for developer in (ada, eve):
        for words in ("intercept list", "intercept status", "env status"):
            said = developer.ok(*words.split())
            assert ("sees the sidecar's address" in said.out and reason in said.out) == (shows != "none"), said
    ada.ok("intercept", "stop", "api")
    ada.ok("env", "down")


MULTIPATH = """
import socket, sys
if sys.argv[1] == "serve":
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    listener.bind(("", 8084))
    listener.listen()
    print("ready", flush=True)
    connections = []
    while True:
        connections.append(listener.accept())
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, int(sys.argv[1]))
client.connect(("10.111.0.2", 8084))
print("open", flush=True)
client.recv(1)
"""


def multipath_is_there():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not multipath_is_there(), reason="this kernel has no Multipath TCP")
def test_the_log_tells_of_multipath_connections(pair, run, processes):
    """Nothing but its two programs ends one of those to the original: they wait for a minute, and the log says why."""
    command = [sys.executable, "-S", "-c", MULTIPATH]
    processes.start("multipath", [*pair.service.prefix, *command, "serve"]).first_line(30)
    processes.start("plain client", [*pair.client.prefix, *command, "6"]).first_line(30)
    processes.start("multipath client", [*pair.client.prefix, *command, "262"]).first_line(30)
    # Nothing listens where that goes: what was open before is ended all the same.
    sidecar, _ = run("--service-port", "8084", workspace=("--map", f"8084:{free_port()}", "--drain", "100ms"))
    eventually("the log tells", lambda: "Multipath TCP" in sidecar.process.log(), 30)
    (line,) = [line for line in sidecar.process.log().splitlines() if "Multipath TCP" in line]
    assert "count=1" in line
