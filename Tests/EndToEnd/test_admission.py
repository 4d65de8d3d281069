"""Further keys for a sidecar that runs: `kl-sidecar admit`, `leave`, `end` and `holders`, and who may say that."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from harness.agents import Agent, Sidecar, Workspace, endpoint, split_address
from harness.cable import Cable, RedirectingAgents
from harness.keys import KeyPair
from harness.load import who
from harness.machine import needs_root
from harness.networks import network_of
from harness.ports import address
from harness.servers import Server, echo
from harness.sockets import connect, exchange
from harness.waiting import eventually
from harness.web import WebServer

PREFIX = "kl-sidecar-admission/"
# Asks the sidecar without the checks of kl-sidecar's own, and prints what comes back.
RAW = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(60)
    connection.connect("\\0" + sys.argv[1])
    data = b""
    try:
        connection.sendall(b'{"holders":{}}\\n')
        while part := connection.recv(65536):
            data += part
    except (ConnectionResetError, BrokenPipeError):
        pass
    print("answered" if data else "nothing", flush=True)
"""


class Console:
    """Runs kl-sidecar's commands beside a sidecar."""

    def __init__(self, binaries, sidecar):
        self.program, self.sidecar = binaries / "kl-sidecar", sidecar
        self.to = ["--to", address(*sidecar.tunnel)]
        self.name = PREFIX + sidecar.ready["tcp"]

    def run(self, *words, prefix=()):
        """Its exit code, what it printed, read, and what it said."""
        command = [*map(str, prefix), self.program, *words, *self.to]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr

    def ok(self, *words):
        code, answer, said = self.run(*words)
        assert code == 0, (answer, said)
        return answer

    def admit(self, key, *words):
        answer = self.ok("admit", key.public, *words)
        assert answer["admitted"] is True and answer["ready"] is True
        return answer

    def leave(self, key):
        return self.ok("leave", key.public)

    def leaves_not(self, key):
        """The sidecar doesn't know the key."""
        code, answer, said = self.run("leave", key.public)
        assert code == 1, (answer, said)
        return answer

    def holders(self):
        return {holder["key"]: holder for holder in self.ok("holders")["holders"]}

    def connect(self):
        """A connection of the test's own."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect("\0" + self.name)
        return connection


def is_refused(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=90)
    assert done.stdout in ("answered\n", "nothing\n"), done.stderr
    return done.stdout == "nothing\n"


@pytest.fixture
def pair(make_pair, closing):
    """A sidecar, without a workspace yet."""
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    pair = make_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    return pair


@pytest.fixture
def console(pair, binaries):
    return Console(binaries, pair.sidecar)


def workspace_of(pair, key):
    """The workspace that has this key, as a flag of `kl-workspace` names the sidecar."""
    words = pair.workspace_flags()
    words[words.index("--private-key-file") + 1] = key.write(pair.folder / f"{key.public[:4].replace('/', '_')}.key")
    return Workspace(pair.processes, pair.binaries, words)


def test_a_key_is_admitted_and_leaves(pair, console):
    bob = KeyPair()
    assert console.holders() == {}
    console.admit(bob, "--label", "bob@desk")
    workspace = workspace_of(pair, bob)
    assert who(pair.public) == "workspace"
    holder = console.holders()[bob.public]
    assert holder["kind"] == "intercept" and holder["ports"] == ["8080"] and holder["isServed"]
    # The maker's own key is still there.
    assert console.leave(bob) == {"left": True, "isLast": False}
    assert who(pair.public) == "environment"
    assert workspace.process.wait(30) == 1 and "no longer accepts" in workspace.process.log()
    assert console.leaves_not(bob) == {"left": False, "isLast": False}
    assert console.holders() == {}
    # The maker leaves too; a sidecar that isn't ephemeral stays for those who come.
    assert console.leave(pair.workspace_key) == {"left": True, "isLast": True}
    console.admit(pair.workspace_key)
    pair.start_workspace()
    assert who(pair.public) == "workspace"


def test_a_key_of_the_file_has_the_rights_of_its_line_and_ends_with_it(pair, console, processes, binaries, folder):
    ada, bo, peers = KeyPair(), KeyPair(), folder / "peers"
    peers.write_text(f"{ada.public} label=ada may=mirror\n{bo.public} label=bo claim=intercept:8080\n")
    peers.chmod(0o600)
    arguments = ["--private-key-file", KeyPair().write(folder / "other.key"), "--listen-tcp", "127.0.0.1:0", "--peers-file", peers]
    arguments += ["--service-port", f"8080:{address(*pair.original)}", "--divert", "listen=127.0.0.1:0"]
    sidecar = Sidecar(processes, binaries, arguments)
    other = Console(binaries, sidecar)
    # All that the lines say counts from the first moment on.
    assert {key: holder["workspace"] for key, holder in other.holders().items()} == {bo.public: "bo"}
    assert other.admit(ada, "--may", "intercept", "--claim", "mirror:8080")["rights"] == "configured"
    assert list(other.holders()) == [bo.public, ada.public]
    code, answer, _ = other.run("admit", ada.public, "--may", "intercept", "--claim", "intercept:8080")
    assert code == 1 and answer["code"] == "denied", answer
    # What it holds ends, though not what its line says.
    assert other.leave(ada) == {"left": True, "isLast": False, "stays": True}
    assert list(other.holders()) == [bo.public]
    peers.write_text("")
    sidecar.process.signal(signal.SIGHUP)
    eventually("its claim has ended with its line", lambda: other.holders() == {}, 20)
    # It isn't known any more.
    assert other.leaves_not(ada) == {"left": False, "isLast": True}
    assert "rights" not in other.admit(ada)
    assert other.leave(ada) == {"left": True, "isLast": True}


def test_it_ends_as_by_a_signal(pair, console):
    assert console.ok("end") == {"ending": True}
    assert pair.sidecar.process.wait(30) == 0
    code, answer, said = console.run("holders")
    assert code == 3 and answer is None and "no sidecar" in said


def test_the_claim_is_the_winners(pair, console):
    """Of fifty at once one has the port, and all others are told whose it is."""
    keys = [KeyPair() for _ in range(50)]
    commands = [
        [console.program, "admit", key.public, "--label", f"dev-{number}", "--claim", "intercept:8080", *console.to]
        for number, key in enumerate(keys)
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    winners = [number for number, answer in enumerate(answers) if answer["admitted"]]
    assert len(winners) == 1, winners
    winner = f"dev-{winners[0]}"
    for process, answer in zip(running, answers):
        assert process.returncode == (0 if answer["admitted"] else 1)
        if not answer["admitted"]:
            assert (answer["code"], answer["holder"]) == ("busy", winner)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer["since"]) and winner in answer["reason"]
    assert [holder["workspace"] for holder in console.holders().values()] == [winner]
    # The losers weren't admitted, so they can't leave.
    loser = keys[(winners[0] + 1) % 50]
    assert console.leaves_not(loser)["left"] is False
    # Whoever may admit may also take the port over, unless they don't grant that.
    code, answer, _ = console.run("admit", loser.public, "--may", "intercept", "--claim", "intercept:8080", "--force")
    assert (code, answer["code"]) == (1, "denied") and "take over" in answer["reason"], answer
    assert [holder["workspace"] for holder in console.holders().values()] == [winner]
    answer = console.admit(loser, "--label", "loser", "--claim", "intercept:8080", "--force")
    assert [holder["workspace"] for holder in answer["holders"]] == ["loser"]
    workspace_of(pair, loser)
    assert who(pair.public) == "workspace"


def test_what_is_wrong_is_said(console):
    key = KeyPair()
    for words, code, reason in [
        (("--claim", "intercept:9999"), 1, "9999"),
        (("--ports", "8080,9999"), 1, "9999"),
        (("--claim", "everything"), 2, "claims nothing"),
        (("--may", "fly"), 2, "isn't a right"),
        (("--until", "tomorrow"), 2, "isn't a time"),
        (("--force",), 2, "--force goes with --claim"),
    ]:
        found, answer, said = console.run("admit", key.public, *words)
        assert found == code and reason in (answer["reason"] if answer else said), (words, answer, said)
    assert console.run("admit", "nonsense")[0] == 2
    assert console.leaves_not(key) == {"left": False, "isLast": False}


def test_the_audit_has_what_was_given_and_what_became_of_a_claim(pair, console):
    bob = KeyPair()
    console.admit(bob, "--may", "mirror", "--ports", "8080", "--until", "2099-01-01T00:00:00Z", "--claim", "mirror:8080")

    def told(event):
        lines = (json.loads(line) for line in pair.sidecar.process.log().splitlines() if line.startswith('{"audit"'))
        return next((line for line in lines if (line["audit"], line["key"]) == (event, bob.public)), None)

    eventually("the admission is told", lambda: told("admission"), 1)
    assert told("admission")["grant"] == {"may": ["mirror"], "ports": ["8080"], "until": "2099-01-01T00:00:00Z"}
    # After 30 s, in which its workspace hasn't come.
    eventually("the claim's end is told", lambda: told("stop"), 10)
    assert (told("stop")["result"], told("stop")["ports"]) == ("lapsed", ["8080"])
    assert console.holders() == {}


def test_a_time_that_is_over_ends_a_key_that_was_admitted(pair, console):
    bob, over = KeyPair(), ("--until", "2020-01-01T00:00:00Z")
    console.admit(bob)
    workspace = workspace_of(pair, bob)
    assert who(pair.public) == "workspace"
    code, answer, _ = console.run("admit", bob.public, *over)
    assert (code, answer["code"], answer["reason"]) == (1, "denied", "this key's time is over")
    assert workspace.process.wait(30) == 1 and "no longer accepts" in workspace.process.log()
    assert who(pair.public) == "environment"
    assert console.leaves_not(bob)["left"] is False
    # A key that the sidecar doesn't know stays unknown.
    assert console.run("admit", KeyPair().public, *over)[1]["code"] == "denied"


# Who may


def test_only_its_own_user_in_its_own_mounts(pair, console):
    needs_root()
    raw = [sys.executable, "-c", RAW, console.name]
    assert not is_refused(*raw)
    others = {
        "another user": ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"],
        "other mounts": ["unshare", "--mount", "--"],
        "other mounts and processes": ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--"],
    }
    for name, prefix in others.items():
        assert is_refused(*prefix, *raw), name
        # The command doesn't talk to a sidecar that it isn't beside, either.
        code, answer, said = console.run("admit", KeyPair().public, prefix=prefix)
        assert (code, answer) == (1, None), name
        assert "other users', or in other containers" in said or "without an answer" in said, (name, said)
    log = pair.sidecar.process.log()
    assert "it is user 65534's" in log and "it is in another mount namespace" in log
    # Whose network is another one finds nobody.
    code, _, said = console.run("holders", prefix=["unshare", "--net", "--"])
    assert code == 3 and "no sidecar" in said
    assert console.holders() == {}


def test_who_shares_the_network_but_no_processes_is_process_zero(closing, processes, binaries, folder):
    """As a container beside a sidecar's: the sidecar is in the PID namespace of its own, the other one outside."""
    needs_root()
    cable = closing(Cable(118))
    key = KeyPair()
    words = ["run", "--peer", key.public, "--listen-tcp", "127.0.0.1:7000", "--service-port", "8080:127.0.0.1:9"]
    command = [*cable.service.inside, binaries / "kl-sidecar", *words, "--divert", "listen=127.0.0.1:8081"]
    sidecar = processes.start("kl-sidecar", command)
    sidecar.first_line(30)
    raw = [sys.executable, "-c", RAW, PREFIX + "127.0.0.1:7000"]
    assert not is_refused(*cable.service.inside, *raw)
    assert is_refused(*cable.service.prefix, *raw)
    assert "it is in another mount namespace" in sidecar.log()
    cable.service.run(binaries / "kl-sidecar", "end", prefix=cable.service.inside)
    eventually("the sidecar has ended", lambda: not sidecar.is_running, 3)


@pytest.mark.parametrize("user", [0, 65534])
def test_with_hardly_any_rights(closing, processes, binaries, folder, user):
    """As in a container: no capability but one, or another user. Root has more there after nsenter, and gives it up."""
    needs_root()
    program = folder / "kl-sidecar"
    shutil.copy(binaries / "kl-sidecar", program)
    folder.chmod(0o755)
    rights = ["--bounding-set", "-all,+net_admin", "--inh-caps", "-all"]
    prefix = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", *rights, "--"]
    words = ["run", "--peer", KeyPair().public, "--listen-tcp", "127.0.0.1:0", "--service-port", "8080:127.0.0.1:9"]
    sidecar = Agent(processes, "kl-sidecar", [*prefix, program, *words, "--divert", "listen=127.0.0.1:0"])
    sidecar.tunnel = split_address(sidecar.ready["tcp"])
    console = Console(folder, sidecar)
    assert console.run("holders", prefix=prefix)[0] == 0
    code, answer, said = console.run("holders")
    if user == 0:
        assert (code, answer["holders"]) == (0, [])
    else:
        # It can't see where root's processes run, and so obeys none of them.
        assert (code, answer) == (1, None) and "without an answer" in said
        assert "where it runs can't be told: permission denied" in sidecar.process.log()
    assert console.run("end", prefix=prefix)[0] == 0


def test_a_process_that_has_ended_vouches_for_nobody(pair, console):
    """It connected while it lived, and left the connection to another process: its number may be anybody's by now."""
    pair.sidecar.freeze()
    connection = None
    try:
        mine, child = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                its = console.connect()
                socket.send_fds(child, [b"x"], [its.fileno()])
            os._exit(0)
        child.close()
        connection = socket.socket(fileno=socket.recv_fds(mine, 1, 1)[1][0])
        os.waitpid(pid, 0)
    finally:
        pair.sidecar.thaw()
    connection.settimeout(60)
    with contextlib.suppress(OSError):
        connection.sendall(b'{"end":{}}\n')
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(100) == b""
    assert console.holders() == {}, "it obeyed"
    eventually("the log tells it", lambda: "where it runs can't be told" in pair.sidecar.process.log(), 1)


def test_garbage_and_slowness_are_bounded(pair, console):
    before = pair.sidecar.process.descriptors()
    for garbage in (b"nonsense\n", b"{}\n", b'{"admit":{}}\n', b'{"fly":{}}\n', b"\xff\xfe\n", b"x" * 300_000):
        with console.connect() as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(garbage)
            assert connection.recv(100) == b"", garbage[:20]
    # A request for each connection, however many lines it sends at once.
    with console.connect() as connection:
        connection.sendall(b'{"holders":{}}\n' * 1000)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                data += part
    assert data.count(b"\n") == 1
    slow = [console.connect() for _ in range(40)]
    for connection in slow:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b'{"hol')
    # They keep nobody out, and don't stay.
    assert console.holders() == {}
    for connection in slow:
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    eventually("no descriptor is left", lambda: pair.sidecar.process.descriptors() <= before, 2)


def test_whoever_has_the_name_first_is_not_taken_for_the_sidecar(pair, console, closing):
    """Another user's program that listens under such a name is neither asked nor in the way of the sidecar that is."""
    needs_root()
    script = """
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0kl-sidecar-admission/127.0.0.1:1")
listener.listen()
print("ready", flush=True)
while True:
    listener.accept()
"""
    prefixes = ["unshare", "--mount"], ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    for number, prefix in enumerate(prefixes, 1):
        words = [*prefix, "--", sys.executable, "-c", script.replace(":1\"", f":{number}\"")]
        pair.processes.start("impostor", words).first_line(30)
    console.to = []
    # Other tests may have sidecars in this network at the same time: then all of them are named, and only they.
    code, answer, said = console.run("holders")
    if code == 0:
        assert answer["holders"] == []
    else:
        assert "sidecars run here" in said and not re.search(r"127\.0\.0\.1:[12]\b", said), said


# A sidecar that was started for an intercept


class Ephemeral(RedirectingAgents):
    """Redirects in the network of a service that echoes. Of these there may be several for one service."""

    def __init__(self, processes, binaries, folder, cable, name="one"):
        super().__init__(processes, binaries, folder, cable.service)
        self.cable = cable
        self.name = name

    def begin(self, *flags):
        sidecar = self.start_sidecar(8080, flags=["--ephemeral", "--dead-after", "1s", *flags])
        self.console = Console(self.binaries, sidecar)
        return sidecar

    def joins(self, key, port, name):
        words = ["--private-key-file", key.write(self.files["sidecar"].parent / f"{name}.key")]
        words += ["--sidecar", endpoint(self.keys["sidecar"].public, *self.sidecar.tunnel), "--map", f"8080:{port}"]
        return Workspace(self.processes, self.binaries, words)


@pytest.fixture
def cable(closing):
    needs_root()
    return closing(Cable(119))


@pytest.fixture
def echoing(cable, closing):
    with network_of(cable.service):
        return closing(Server(echo, host="0.0.0.0", port=8080))


@pytest.fixture
def local(closing):
    return closing(Server(echo))


@pytest.fixture
def ephemeral(processes, binaries, folder, cable, echoing):
    return Ephemeral(processes, binaries, folder, cable)


def client(cable):
    with network_of(cable.client):
        return connect(("10.119.0.2", 8080), 60)


def passed_on(agents, workspace, echoing):
    """A connection that the sidecar passes on: its workspace stands still, and so the original gets it before it speaks."""
    workspace.freeze()
    before = echoing.accepted
    connection = client(agents.cable)
    eventually("the workspace is gone", lambda: "workspace is gone" in agents.sidecar.process.log(), 1)
    exchange(connection, b"hello")
    assert echoing.accepted == before + 1
    return connection


def test_the_last_one_ends_it_when_nothing_is_open(ephemeral, cable, echoing, local):
    rules = cable.rules()
    sidecar = ephemeral.begin()
    workspace = ephemeral.start_workspace(f"8080:{local.address[1]}")
    with passed_on(ephemeral, workspace, echoing) as connection:
        assert ephemeral.console.leave(ephemeral.keys["workspace"]) == {"left": True, "isLast": True}
        # New clients reach the original by themselves, and the one that is open stays.
        eventually("no port is redirected", lambda: "8080 " not in re.sub(r"map .*?}.*?}", "", cable.rules(), flags=re.S), 2)
        for _ in range(3):
            exchange(connection, b"still here")
            time.sleep(0.3)
        assert sidecar.process.is_running
        # Whoever is admitted now keeps it.
        bob = KeyPair()
        ephemeral.console.admit(bob, "--claim", "intercept:8080")
    other = ephemeral.joins(bob, local.address[1], "bob")
    before = local.accepted
    with client(cable) as connection:
        exchange(connection, b"to bob")
    assert local.accepted == before + 1 and sidecar.process.is_running
    assert other.stop() == 0
    assert ephemeral.console.leave(bob) == {"left": True, "isLast": True}
    assert sidecar.process.wait(30) == 0
    assert cable.rules() == rules


def test_a_key_that_stays_away_is_forgotten(ephemeral, cable, local):
    """Whoever admitted it may never come, and a holder's machine may be gone: that ends it for nobody else."""
    sidecar = ephemeral.begin("--linger", "5s")
    bob, carol = KeyPair(), KeyPair()
    ephemeral.console.admit(bob)
    workspace = ephemeral.joins(bob, local.address[1], "bob")
    ephemeral.console.admit(carol)
    maker = ephemeral.keys["workspace"]
    log = sidecar.process.log
    for key in (maker, carol):
        eventually("a key is forgotten", lambda key=key: f"forgetting it key={key.public}" in log(), 6)
    assert ephemeral.console.leaves_not(carol) == {"left": False, "isLast": False}
    with client(cable) as connection:
        exchange(connection, b"to bob")
    workspace.kill()
    assert sidecar.process.wait(60) == 0
    assert f"forgetting it key={bob.public}" in log()


def test_another_sidecar_of_the_namespace_has_the_port(ephemeral, processes, binaries, folder, cable, local):
    rules = cable.rules()
    second_folder = folder / "second"
    second_folder.mkdir()
    second = Ephemeral(processes, binaries, second_folder, cable)
    first_sidecar, second_sidecar = ephemeral.begin(), second.begin("--service-port", "8081")
    ada = ephemeral.start_workspace(f"8080:{local.address[1]}")
    (holder,) = ephemeral.console.holders().values()
    assert f'comment "{holder["workspace"]}"' in cable.rules()
    # By the way of a claim, and by the workspace's own.
    bob = KeyPair()
    code, answer, _ = second.console.run("admit", bob.public, "--claim", "intercept:8080")
    assert code == 1 and answer["code"] == "busy" and "another sidecar in this network diverts port 8080" in answer["reason"]
    assert answer["holder"] == f"{holder['workspace']} (by another sidecar in this network)"
    there = endpoint(second.keys["sidecar"].public, *second_sidecar.tunnel)
    words = ["--private-key-file", second.files["workspace"], "--sidecar", there]
    refused = processes.start("kl-workspace", [binaries / "kl-workspace", "run", *words, "--map", f"8080:{local.address[1]}"])
    assert refused.wait(60) == 5
    assert answer["holder"] in refused.log()
    # Its other port is free.
    second.console.admit(bob, "--claim", "intercept:8081")
    assert ada.process.is_running
    assert ada.stop() == 0
    second.console.admit(bob, "--claim", "intercept:8080")
    other = second.joins(bob, local.address[1], "bob")
    with client(cable) as connection:
        exchange(connection, b"to bob")
    assert other.stop() == 0
    for sidecar in (first_sidecar, second_sidecar):
        assert sidecar.stop() == 0
    assert cable.rules() == rules


def test_two_at_the_same_moment(ephemeral, processes, binaries, folder, cable, local):
    """One of both has the port, whichever, and never both."""
    second_folder = folder / "second"
    second_folder.mkdir()
    second = Ephemeral(processes, binaries, second_folder, cable)
    both = (ephemeral, second)
    for agents in both:
        agents.begin()
    for _ in range(10):
        running = []
        for agents in both:
            there = endpoint(agents.keys["sidecar"].public, *agents.sidecar.tunnel)
            words = ["--private-key-file", agents.files["workspace"], "--sidecar", there, "--map", f"8080:{local.address[1]}"]
            running.append(processes.start("kl-workspace", [binaries / "kl-workspace", "run", *words]))
        eventually("both know", lambda: all(one.lines or not one.is_running for one in running), 5)
        won = [one for one in running if one.lines]
        assert len(won) == 1, [one.log() for one in running]
        assert len(re.findall(r"^table inet kl_", cable.rules(), re.M)) == 1
        assert won[0].stop() == 0
