"""Several workspaces at one sidecar: who has which port, who only gets copies, and what each key may do."""

import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from harness.agents import Sidecar, Workspace, endpoint
from harness.cable import Cable
from harness.docker_project import PROGRAMS
from harness.keys import KeyPair
from harness.machine import needs_root
from harness.ports import free_port
from harness.waiting import eventually
from peer import control, wire
from peer.handshake import as_text, generate_key, public_key
from peer.initiator import Workspace as Peer
from peer.programs import Program, Service, folder, get, http, key_file
from peer.stream import StreamReset

pytestmark = [
    pytest.mark.skipif(not folder(), reason="no programs: KL_BIN is unset and nothing was built"),
    pytest.mark.filterwarnings("ignore:One of ephemeral keypairs"),
]


class Stand:
    """A sidecar with two ports, and workspaces of which each has a key and rights of its own."""

    def __init__(self, folder, flags=("--allow-takeover", "--allow-refuse")):
        self.folder, self.own = folder, generate_key()
        self.tunnel = ("127.0.0.1", free_port())
        self.ports = [free_port(), free_port()]
        self.fronts = [("127.0.0.1", port) for port in self.ports]
        self.keys, self.rights, self.peers = {}, {}, folder / "peers"
        self.peers.write_text("")
        self.peers.chmod(0o600)
        self.stack = contextlib.ExitStack()
        self.originals = [Service(http("original")) for _ in self.ports]
        for original in self.originals:
            self.stack.callback(original.close)
        served = zip(self.ports, self.originals)
        self.program = Program(
            folder / "sidecar.log",
            *("kl-sidecar", "run", "--private-key-file", key_file(folder / "sidecar.key", self.own)),
            *("--listen-tcp", "%s:%d" % self.tunnel, "--peers-file", self.peers, "--announce-intercepts"),
            *itertools.chain(*(("--service-port", f"{port}:127.0.0.1:{original.port}") for port, original in served)),
            *("--divert", "listen=127.0.0.1"),
            *flags,
        )
        self.stack.callback(self.program.close)

    def allow(self, **rights):
        """Each key is there with its rights, which are the end of its line; those not named aren't accepted any more."""
        self.rights = rights
        for name in rights:
            self.keys.setdefault(name, generate_key())
        lines = [f"{as_text(public_key(self.keys[name]))} label={name} {more}\n" for name, more in rights.items()]
        self.peers.write_text("".join(lines))
        self.program.process.send_signal(signal.SIGHUP)

    def workspace(self, name, rights=""):
        self.allow(**self.rights, **{name: rights})
        made = Peer(self.keys[name], public_key(self.own), self.tunnel)
        self.stack.callback(made.shut)
        made.wait_connected()
        return made

    def lines(self):
        """What the audit says."""
        text = (self.folder / "sidecar.log").read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith('{"audit"')]

    def audited(self, event, name, aim=1):
        key = as_text(public_key(self.keys[name]))

        def found():
            return [line for line in self.lines() if line["audit"] == event and line["key"] == key]

        eventually(f"the audit tells of {event}", found, aim)
        return found()[-1]


@pytest.fixture
def stand(tmp_path):
    made = Stand(tmp_path)
    with made.stack:
        yield made


def ask_for(workspace, kind, /, *ports, generation=1, **more):
    """`start` or `mirror`, and its answer."""
    listed = [{"service": port, "transport": "tcp"} for port in ports]
    message = {"type": kind, "generation": generation, "workspace": "", "ports": listed} | more
    workspace.send_control(message)
    return workspace.wait_message("started", "failed")


@contextlib.contextmanager
def open_stream(front, workspace):
    """A client's connection, and its stream, answered with 0."""
    with socket.create_connection(front, 15) as client:
        service, _ = workspace.next_stream()
        service.write(bytes([control.CONNECTED]) + b"!")
        # Until the answer is there, the original could still get the client.
        assert client.recv(1) == b"!"
        yield client, service


STARTED = {"type": "started", "generation": 1}


def test_each_holds_a_port_and_the_same_port_is_busy(stand):
    first, second, third = (stand.workspace(name) for name in ("ada", "bo", "cy"))
    one, two = stand.ports
    assert ask_for(first, "start", one, drainSeconds=0) == STARTED
    assert ask_for(second, "start", two) == STARTED
    for workspace, front in ((first, stand.fronts[0]), (second, stand.fronts[1])):
        with open_stream(front, workspace) as (client, service):
            client.sendall(b"to you")
            assert service.read_exactly(6) == b"to you"
    refused = ask_for(third, "start", one)
    assert (refused["code"], refused["holder"]) == ("busy", "ada"), refused
    assert refused["reason"] == f"port {one} is intercepted by ada"
    # Not even in part.
    refused = ask_for(third, "start", two, one)
    assert (refused["code"], refused["holder"]) == ("busy", "ada"), refused
    first.send_control({"type": "stop"})
    assert first.wait_message("stopped")
    assert get(stand.fronts[0]) == "original"
    with open_stream(stand.fronts[1], second):
        pass
    assert ask_for(third, "start", one, generation=2) == {"type": "started", "generation": 2}


def test_a_takeover_ends_the_others_whole_holding_and_nobody_elses(stand):
    first, second = stand.workspace("ada"), stand.workspace("bo")
    one, two = stand.ports
    assert ask_for(first, "start", one, two) == STARTED
    assert ask_for(second, "mirror", two) == STARTED
    third = stand.workspace("cy")
    assert ask_for(third, "start", one, takeover=True) == STARTED
    assert first.wait_message("withdrawn") == {"type": "withdrawn", "holder": "cy"}
    assert get(stand.fronts[1]) == "original"
    with open_stream(stand.fronts[0], third):
        pass
    assert not [message for message in second.messages if message["type"] == "withdrawn"]
    line = stand.audited("take-over", "cy")
    assert line["result"] == "taken from ada" and line["ports"] == sorted([str(one), str(two)], key=int)


def test_a_key_has_one_holding_of_one_kind(stand):
    workspace = stand.workspace("ada")
    one, two = stand.ports
    assert ask_for(workspace, "mirror", one) == STARTED
    refused = ask_for(workspace, "start", two, generation=2)
    assert refused["code"] == "unsupported" and refused["reason"].endswith("; stop that first"), refused
    workspace.send_control({"type": "stop"})
    assert workspace.wait_message("withdrawn") and workspace.wait_message("stopped")
    assert ask_for(workspace, "start", two, generation=3) == {"type": "started", "generation": 3}


def test_a_port_that_is_left_out_is_nobody_elses(stand):
    """As a workspace does whose local server isn't there."""
    first, second = stand.workspace("ada"), stand.workspace("bo")
    one, two = stand.ports
    assert ask_for(first, "start", one, two) == STARTED
    assert ask_for(first, "start", two, generation=2)["type"] == "started"
    assert get(stand.fronts[0]) == "original"
    assert ask_for(second, "start", one)["code"] == "busy"


def test_the_report_tells_of_all_holders(stand):
    first, second = stand.workspace("ada"), stand.workspace("bo")
    assert ask_for(first, "start", stand.ports[0]) == STARTED
    assert ask_for(second, "mirror", *stand.ports) == STARTED
    # A line for each change, or one for both.
    while len((report := json.loads(stand.program.process.stdout.readline())).get("holders", [])) < 2:
        assert report["ready"] is True
    told = [(holder["workspace"], holder["kind"], holder["ports"], holder["isServed"]) for holder in report["holders"]]
    ports = [str(port) for port in sorted(stand.ports)]
    assert told == [("ada", "intercept", [str(stand.ports[0])], True), ("bo", "mirror", ports, True)]
    # What earlier versions of kl read.
    assert report["intercept"]["workspace"] == "ada" and report["intercept"]["ports"] == [stand.ports[0]]


# ---- Rights ----

NO = "this workspace's key has no right here"


@pytest.mark.parametrize(
    ("rights", "kind", "ports", "more", "reason"),
    [
        ("may=mirror", "start", "one", {}, "{no} to intercept port {one}"),
        ("may=intercept,take-over", "mirror", "one", {}, "{no} to mirror port {one}"),
        ("may=intercept", "start", "one", {"onUnavailable": "refuse"}, "{no} to refuse clients of port {one}"),
        ("ports={one}", "start", "both", {}, "{no} to intercept port {two}, only {one}"),
        ("ports={one} may=mirror", "mirror", "two", {}, "{no} to mirror port {two}, only {one}"),
    ],
    ids=["intercept", "mirror", "refuse", "a port", "a port to mirror"],
)
def test_what_is_not_granted_is_refused(stand, rights, kind, ports, more, reason):
    one, two = stand.ports
    asked = {"one": [one], "two": [two], "both": [one, two]}[ports]
    workspace = stand.workspace("ada", rights.format(one=one, two=two))
    refused = ask_for(workspace, kind, *asked, **more)
    expected = {"type": "failed", "generation": 1, "code": "denied", "reason": reason.format(no=NO, one=one, two=two)}
    assert refused == expected
    assert [get(front) for front in stand.fronts] == ["original", "original"]
    line = stand.audited("refusal", "ada")
    assert (line["result"], line["label"], line["reason"]) == ("denied", "ada", expected["reason"])
    assert line["ports"] == [str(port) for port in sorted(asked)] and line["address"].startswith("127.0.0.1:")


def test_a_takeover_without_the_right_is_denied(stand):
    first = stand.workspace("ada")
    one, _ = stand.ports
    assert ask_for(first, "start", one) == STARTED
    second = stand.workspace("bo", "may=intercept,mirror,refuse")
    refused = ask_for(second, "start", one, takeover=True)
    assert (refused["code"], refused["reason"]) == ("denied", f"{NO} to take over port {one} from ada")
    # Who doesn't ask for it is told who is there.
    assert ask_for(second, "start", one, generation=2)["code"] == "busy"
    with open_stream(stand.fronts[0], first):
        pass


def test_rights_give_nothing_that_the_sidecar_does_not_let_anybody_do(tmp_path):
    stand = Stand(tmp_path, flags=())
    with stand.stack:
        first, second = stand.workspace("ada"), stand.workspace("bo", "may=intercept,take-over,refuse")
        one, _ = stand.ports
        assert ask_for(second, "start", one, onUnavailable="refuse")["code"] == "unsupported"
        assert ask_for(first, "start", one) == STARTED
        assert ask_for(second, "start", one, takeover=True, generation=2)["code"] == "busy"


def test_a_right_that_is_taken_back_ends_what_it_allowed_at_once(stand):
    one, two = stand.ports
    ada, bo = stand.workspace("ada"), stand.workspace("bo")
    assert ask_for(ada, "start", one) == STARTED
    assert ask_for(bo, "start", two) == STARTED
    with open_stream(stand.fronts[0], ada) as (client, service), open_stream(stand.fronts[1], bo) as (other, kept):
        start = time.monotonic()
        stand.allow(ada="may=mirror", bo="")
        with pytest.raises(StreamReset) as end:
            service.read(timeout=10)
        assert end.value.code == wire.SHUTTING_DOWN
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert time.monotonic() - start < 1
        assert ada.wait_message("withdrawn") == {"type": "withdrawn"}
        # Nobody else notices.
        other.sendall(b"still")
        assert kept.read_exactly(5) == b"still"
    assert get(stand.fronts[0]) == "original"
    line = stand.audited("withdrawal", "ada")
    assert line["ports"] == [str(one)] and line["reason"] == f"{NO} to intercept port {one}"
    refused = ask_for(ada, "start", one, generation=2)
    assert (refused["code"], refused["reason"]) == ("denied", f"{NO} to intercept port {one}")
    assert ask_for(ada, "mirror", one, generation=3)["type"] == "started"


@contextlib.contextmanager
def ended_by_its_rights(client, service):
    """What is open has ended soon after the block."""
    yield
    with pytest.raises(StreamReset) as end:
        service.read(timeout=10)
    assert end.value.code == wire.SHUTTING_DOWN
    client.settimeout(10)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_port_that_is_taken_back_ends_streams_of_an_earlier_holding(stand):
    one, two = stand.ports
    ada = stand.workspace("ada")
    assert ask_for(ada, "start", one, two) == STARTED
    with open_stream(stand.fronts[0], ada) as (client, service), open_stream(stand.fronts[1], ada) as (other, kept):
        assert ask_for(ada, "start", two, generation=2, absent=[])["type"] == "started"
        client.sendall(b"goes on")
        assert service.read_exactly(7) == b"goes on"
        with ended_by_its_rights(client, service):
            stand.allow(ada=f"ports={two}")
        other.sendall(b"still")
        assert kept.read_exactly(5) == b"still"
    line = stand.audited("withdrawal", "ada")
    assert (line["kind"], line["ports"], line["result"]) == ("intercept", [str(one)], "denied")
    assert line["reason"] == f"{NO} to intercept port {one}, and what was open there of an earlier holding is ended"
    assert not [message for message in ada.messages if message["type"] == "withdrawn"]


def test_a_kind_that_is_taken_back_ends_streams_of_an_earlier_holding(stand):
    one, two = stand.ports
    ada, bo = stand.workspace("ada"), stand.workspace("bo")
    assert ask_for(ada, "start", one) == STARTED
    with open_stream(stand.fronts[0], ada) as (client, service):
        assert ask_for(bo, "start", one, takeover=True) == STARTED
        assert ask_for(ada, "mirror", two, generation=2)["type"] == "started"
        client.sendall(b"goes on")
        assert service.read_exactly(7) == b"goes on"
        with ended_by_its_rights(client, service):
            stand.allow(ada="may=mirror", bo="")
    line = stand.audited("withdrawal", "ada")
    assert (line["kind"], line["ports"]) == ("intercept", [str(one)])
    # The mirror goes on.
    with socket.create_connection(stand.fronts[1], 15) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        copy, _ = ada.next_stream()
        assert copy.read_exactly(3) == b"GET"
        # And its copies end with the right to them, though what is held by then is another port.
        assert ask_for(ada, "mirror", one, generation=3)["type"] == "started"
        stand.allow(ada=f"may=mirror ports={one}", bo="")
        with pytest.raises(StreamReset) as end:
            while copy.read(timeout=10):
                pass
        assert end.value.code == wire.SHUTTING_DOWN
    line = stand.audited("withdrawal", "ada")
    assert (line["kind"], line["ports"]) == ("mirror", [str(two)])
    assert len([line for line in stand.lines() if line["audit"] == "withdrawal"]) == 2


def test_a_key_that_is_removed_is_revoked_at_once(stand):
    ada = stand.workspace("ada")
    assert ask_for(ada, "start", *stand.ports) == STARTED
    with open_stream(stand.fronts[0], ada) as (client, _):
        start = time.monotonic()
        stand.allow()
        client.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        assert time.monotonic() - start < 1
    ada.wait(lambda: ada.closed_with == wire.REVOKED, what="REVOKED")
    assert [get(front) for front in stand.fronts] == ["original", "original"]
    assert stand.audited("revocation", "ada")["ports"] == [str(port) for port in sorted(stand.ports)]


def test_a_key_of_the_file_that_leaves_may_come_back(stand):
    ada = stand.workspace("ada")
    assert ask_for(ada, "start", stand.ports[0]) == STARTED
    key = as_text(public_key(stand.keys["ada"]))
    command = [folder() / "kl-sidecar", "leave", key, "--to", "%s:%d" % stand.tunnel]
    with open_stream(stand.fronts[0], ada) as (client, _):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and json.loads(done.stdout) == {"left": True, "isLast": False, "stays": True}, done
        client.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    ada.wait(lambda: ada.closed_with == wire.REVOKED, what="REVOKED")
    assert get(stand.fronts[0]) == "original"
    assert stand.audited("leave", "ada")["ports"] == [str(stand.ports[0])]
    again = Peer(stand.keys["ada"], public_key(stand.own), stand.tunnel)
    stand.stack.callback(again.shut)
    again.wait_connected()
    assert ask_for(again, "start", stand.ports[0]) == STARTED


def test_a_workspace_is_called_as_the_operator_calls_it(stand):
    ada = stand.workspace("ada")
    one = stand.ports[0]
    assert ask_for(ada, "start", one, workspace="root@vm") == STARTED
    assert stand.audited("start", "ada")["label"] == "ada"
    bo = stand.workspace("bo")
    assert ask_for(bo, "start", one, workspace="ada")["holder"] == "ada"
    assert stand.audited("refusal", "bo")["label"] == "bo"
    # Also from now on, and while it holds the port.
    stand.peers.write_text(stand.peers.read_text().replace("label=ada", "label=eve"))
    stand.program.process.send_signal(signal.SIGHUP)
    generation = itertools.count(2)
    holder = lambda: ask_for(bo, "start", one, generation=next(generation))["holder"]  # noqa: E731
    eventually("it is called otherwise", lambda: holder() == "eve", 2)
    assert ask_for(bo, "start", one, generation=next(generation), takeover=True)["type"] == "started"
    assert ada.wait_message("withdrawn")["holder"] == "bo"
    assert stand.audited("take-over", "bo")["result"] == "taken from eve"


def test_a_key_whose_time_is_over_is_revoked(stand):
    until = time.time() + 3
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(until)) + f".{int(until % 1 * 1000):03}Z"
    ada = stand.workspace("ada", f"until={text}")
    assert ask_for(ada, "start", stand.ports[0]) == STARTED
    with open_stream(stand.fronts[0], ada) as (client, service):
        client.sendall(b"before")
        assert service.read_exactly(6) == b"before"
        client.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        assert until <= time.time() < until + 1
    ada.wait(lambda: ada.closed_with == wire.REVOKED, what="REVOKED")
    assert get(stand.fronts[0]) == "original"
    assert stand.audited("expiry", "ada")["result"] == "revoked"


def test_rights_that_have_no_effect_are_told(stand):
    log = stand.folder / "sidecar.log"
    stand.allow(ada="ports=1,2/udp claim=mirror:1", bo="until=2020-01-01T00:00:00Z")
    for text in ("rights to ports that aren't served here: 1,2/udp", "time is over already", "a claim is left out"):
        eventually("the log tells", lambda text=text: text in log.read_text(), 2)
    # Each line once.
    stand.allow(**stand.rights, cy="")
    assert ask_for(stand.workspace("dan"), "start", stand.ports[0]) == STARTED
    assert log.read_text().count("aren't served here") == 1


def test_a_holder_without_local_servers_does_not_count_as_begun(stand):
    ada, (one, _) = stand.workspace("ada"), stand.ports
    absent = [{"service": one, "transport": "tcp"}]
    assert ask_for(ada, "start", one) == STARTED
    assert ask_for(ada, "start", generation=2, absent=absent)["type"] == "started"
    told = lambda: [(line["result"], line["ports"]) for line in stand.lines()]  # noqa: E731
    eventually("it is told", lambda: told() == [("started", [str(one)]), ("absent", [str(one)])], 1)
    assert "nothing listens at the workspace: new connections reach the original" in (stand.folder / "sidecar.log").read_text()


def test_rights_that_can_not_be_read_change_nothing(stand):
    ada = stand.workspace("ada", "may=mirror")
    stand.peers.write_text(stand.peers.read_text().replace("mirror", "everything"))
    stand.program.process.send_signal(signal.SIGHUP)
    log = stand.folder / "sidecar.log"
    eventually("the log tells", lambda: "can't be read in line 1" in log.read_text(), 2)
    assert ask_for(ada, "start", stand.ports[0])["code"] == "denied"
    assert ask_for(ada, "mirror", stand.ports[0], generation=2)["type"] == "started"


def test_the_audit_of_one_key_is_limited(stand):
    ada, bo = stand.workspace("ada", "may=mirror"), stand.workspace("bo")
    for generation in range(1, 61):
        assert ask_for(ada, "start", stand.ports[0], generation=generation)["code"] == "denied"
    assert ask_for(bo, "start", stand.ports[0]) == STARTED
    assert stand.audited("start", "bo")["result"] == "started"
    told = [line for line in stand.lines() if line["label"] == "ada"]
    assert 20 <= len(told) < 60
    # Without another word from it.
    eventually("a line tells of those left out", lambda: told_of(stand, "ada") == 60, 2)
    last = [line for line in stand.lines() if line["label"] == "ada"][-1]
    assert last["leftOut"] >= 20, last


def told_of(stand, name):
    """How many lines there would be about a key, by the numbers of those left out."""
    return sum(1 + line.get("leftOut", 0) for line in stand.lines() if line["label"] == name)


def test_a_takeover_is_not_hidden_behind_other_lines(stand):
    ada, bo = stand.workspace("ada"), stand.workspace("bo")
    one, two = stand.ports
    assert ask_for(bo, "start", two) == STARTED
    for generation in range(1, 41):
        ports = [one] if generation % 2 else []
        assert ask_for(ada, "start", *ports, generation=generation)["type"] == "started"
    assert ask_for(ada, "start", two, generation=41, takeover=True)["type"] == "started"
    ada.send_control({"type": "stop"})
    line = stand.audited("take-over", "ada")
    assert (line["result"], line["ports"]) == ("taken from bo", [str(two)])
    assert line["takenFrom"] == as_text(public_key(stand.keys["bo"]))
    # How it ended is told as well, and how many lines there would have been.
    assert stand.audited("stop", "ada", 2)["leftOut"] > 10
    assert told_of(stand, "ada") == 40 + 1 + 1 + 1


def test_no_key_pushes_the_ready_line_out_of_the_log(stand):
    """Whoever reads there who holds what finds it among what was written last."""
    invented = [port for port in range(1, 1001) if port not in stand.ports]
    for number in range(16):
        workspace = stand.workspace(f"{number}", "may=mirror")
        for generation in range(1, 21):
            assert ask_for(workspace, "start", stand.ports[0], generation=generation)["code"] == "denied"
    ask_for(workspace, "start", *invented, generation=100)
    time.sleep(1.1)
    assert ask_for(workspace, "start", *invented, generation=101)["code"] == "port"
    line = stand.audited("refusal", "15")
    assert (line["ports"], line["morePorts"]) == ([], len(invented)), line
    assert max(len(json.dumps(line)) for line in stand.lines()) < 1000
    assert sum(len(json.dumps(line)) for line in stand.lines()) > 80_000
    # Nothing has changed of what it says.
    told = []
    reader = threading.Thread(target=lambda: told.append(stand.program.process.stdout.readline()), daemon=True)
    reader.start()
    reader.join(30)
    assert told and json.loads(told[0])["ready"] is True


def test_a_workspace_that_only_intercepts_gets_nothing_by_a_key_that_only_mirrors(stand, tmp_path):
    """As one of an earlier version does, which knows no other message."""
    stand.allow(ada="may=mirror")
    flags = ["--private-key-file", key_file(tmp_path / "ada.key", stand.keys["ada"])]
    flags += ["--sidecar", f"{as_text(public_key(stand.own))}@tcp:127.0.0.1:{stand.tunnel[1]}"]
    port = stand.ports[0]
    command = [folder() / "kl-workspace", "run", *flags, "--map", f"{port}:{stand.originals[0].port}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1, ended
    assert f"The sidecar refused: {NO} to intercept port {port}." in ended.stderr
    assert get(stand.fronts[0]) == "original"


# ---- Behind a redirect ----

V4 = "10.118.0.2"


class Redirected(Cable):
    """A service with two ports in a network, a sidecar that redirects there, and workspaces which come and go."""

    def __init__(self, processes, binaries, folder):
        super().__init__(118)
        self.processes, self.binaries = processes, binaries
        for port in (8080, 8081):
            self.serve("original", port, self.service.prefix)
        self.before = self.rules()
        self.key = KeyPair()
        self.keys = {name: KeyPair() for name in ("ada", "bo", "cy")}
        self.files = {name: key.write(folder / f"{name}.key") for name, key in self.keys.items()}
        flags = ["--private-key-file", self.key.write(folder / "sidecar.key"), "--netns", f"pid:{self.service.pid}"]
        flags += ["--listen-tcp", "127.0.0.1:0", "--divert", "redirect"]
        flags += ["--service-port", "8080", "--service-port", "8081"]
        flags += itertools.chain(*(("--peer", key.public) for key in self.keys.values()))
        self.sidecar = Sidecar(processes, binaries, flags)
        self.locals = {}
        for name in self.keys:
            self.locals[name] = free_port()
            self.serve(name, self.locals[name])

    def serve(self, name, port, prefix=()):
        command = [*prefix, sys.executable, "-B", PROGRAMS / "who_server.py", "--name", name, "--port", str(port)]
        self.processes.start(name, command).first_line(30)

    def join(self, name, *ports, mirror=False, drain="10s"):
        flags = ["--private-key-file", self.files[name], *([] if mirror else ["--drain", drain])]
        flags += ["--sidecar", endpoint(self.key.public, *self.sidecar.tunnel)]
        flags += itertools.chain(*(("--map", f"{port}:{self.locals[name]}") for port in ports))
        return Workspace(self.processes, self.binaries, [*flags, *(["--mirror"] if mirror else [])])

    def asker(self, port, *more):
        """Asks in the client's network until `answers` ends it."""
        command = [*self.client.prefix, sys.executable, "-B", "-S", PROGRAMS / "load.py", "--host", V4, "--port", port]
        words = [str(word) for word in (*command, "--pause", 0.02, *more)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answers(asker):
    """Who answered, and when it was asked and answered; nothing may have failed."""
    text, _ = asker.communicate(timeout=60)
    told = [json.loads(line) for line in text.splitlines()]
    failed = [entry for entry in told if entry["error"]]
    assert not failed, failed
    return [(entry["who"].split()[0], entry["start"], entry["end"]) for entry in told]


@pytest.fixture
def redirected(processes, binaries, folder, closing):
    needs_root()
    return closing(Redirected(processes, binaries, folder))


def test_what_the_kernel_refuses_is_audited_too(redirected, processes, binaries, folder):
    """Whether another sidecar has the port isn't asked each time before the rules are changed, so that change may be refused."""
    redirected.join("ada", 8080)
    own, key = generate_key(), generate_key()
    flags = ["--private-key-file", key_file(folder / "second.key", own), "--netns", f"pid:{redirected.service.pid}"]
    flags += ["--listen-tcp", "127.0.0.1:0", "--divert", "redirect", "--service-port", "8080"]
    second = Sidecar(processes, binaries, [*flags, "--peer", as_text(public_key(key))])
    bo = Peer(key, public_key(own), second.tunnel)
    with contextlib.ExitStack() as stack:
        stack.callback(bo.shut)
        bo.wait_connected()
        asked = 40
        for generation in range(1, asked + 1):
            assert ask_for(bo, "start", 8080, generation=generation)["code"] == "busy"
        time.sleep(1.1)
        ask_for(bo, "start", 8080, generation=100)

        def refusals():
            lines = [json.loads(line) for line in second.process.log().splitlines() if line.startswith('{"audit":"refusal"')]
            assert all(line["result"] == "busy" for line in lines)
            return sum(1 + line.get("leftOut", 0) for line in lines)

        eventually("each refusal is in the audit, or counted there", lambda: refusals() == asked + 1, 5)


HOLDERS = {"ada": ((8080,), False), "bo": ((8080, 8081), True), "cy": ((8081,), False)}


@pytest.mark.parametrize("order", itertools.permutations(HOLDERS), ids="-".join)
def test_joining_and_leaving_in_all_orders_nothing_fails_and_each_answer_is_the_right_sides(redirected, order):
    """Ada and cy intercept a port each, and bo mirrors both. They leave in the order in which they came, and in the other one."""
    askers = {port: redirected.asker(port) for port in (8080, 8081)}
    spans = {8080: [], 8081: []}  # who answers, from when to when for sure
    side = {8080: "original", 8081: "original"}
    since = time.monotonic()

    def turn(change):
        """What was so until now was so since the last change was over."""
        nonlocal since
        until = time.monotonic()
        for port, who in side.items():
            spans[port].append((who, since, until))
        change()
        since = time.monotonic()
        time.sleep(0.15)

    running = {}

    def join(name):
        ports, mirror = HOLDERS[name]
        running[name] = redirected.join(name, *ports, mirror=mirror)
        if not mirror:
            side.update(dict.fromkeys(ports, name))

    def leave(name):
        ports, mirror = HOLDERS[name]
        assert running.pop(name).stop() == 0
        if not mirror:
            side.update(dict.fromkeys(ports, "original"))

    for leaving in (order, order[::-1]):
        for name in order:
            turn(lambda: join(name))
        for name in leaving:
            turn(lambda: leave(name))
    turn(lambda: None)
    for port, asker in askers.items():
        told = answers(asker)
        assert len(told) > 50
        for who, start, end in told:
            for right, first, last in spans[port]:
                assert who == right or not (first <= start and end <= last), (port, who, right)
        assert {who for who, _, _ in told} == {"original", "ada" if port == 8080 else "cy"}
    eventually("no rule is left", lambda: redirected.rules() == redirected.before, 3)


def test_nobodys_connection_ends_at_a_mirrors_start_or_stop(redirected):
    with open_connection(redirected, 8080) as held:
        mirror = redirected.join("bo", 8080, mirror=True)
        assert held() == "original"
        with open_connection(redirected, 8080) as passed:
            assert passed() == "original"
            assert mirror.stop() == 0
            time.sleep(0.5)
            assert held() == passed() == "original"
    eventually("no rule is left", lambda: redirected.rules() == redirected.before, 3)


def test_what_was_open_is_ended_by_an_intercept_that_begins_under_a_mirror(redirected):
    """Also what the sidecar has passed on because of the mirror: clients that keep a connection come to the workspace."""
    redirected.join("bo", 8080, mirror=True)
    asker = redirected.asker(8080, "--keep")
    time.sleep(0.3)
    redirected.join("ada", 8080, drain="0s")
    time.sleep(1)
    told = answers(asker)
    assert told[0][0] == "original" and told[-1][0] == "ada"


@contextlib.contextmanager
def open_connection(redirected, port):
    """Asks on one connection, each time that it is called."""
    asker = redirected.asker(port, "--hold")

    def ask():
        entry = json.loads(asker.stdout.readline())
        assert not entry["error"], entry
        return entry["who"].split()[0]

    ask()

    def latest():
        start = time.monotonic()
        while True:
            entry = json.loads(asker.stdout.readline())
            assert not entry["error"], entry
            if entry["start"] >= start:
                return entry["who"].split()[0]

    try:
        yield latest
    finally:
        asker.communicate(timeout=60)
