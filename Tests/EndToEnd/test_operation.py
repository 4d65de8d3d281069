"""What whoever runs the agents relies on: ready lines, logs, metrics, and an orderly end."""

import base64
import json
import pathlib
import re
import signal
import socket
import threading
import time
import urllib.request

import pytest
from harness import programs
from harness.keys import KeyPair
from harness.load import Load, ask, summary, who
from harness.ports import free_port
from harness.servers import Server, echo
from harness.sockets import connect, exchange, receive
from harness.waiting import eventually, note
from harness.web import WebServer

CLOCK = pathlib.Path(__file__).parent / "harness" / "clock.c"


@pytest.fixture
def webs(closing):
    return closing(WebServer("environment")), closing(WebServer("workspace"))


@pytest.fixture
def clock(folder):
    """The environment of a program whose clock is so many seconds ahead."""
    library = programs.compile_c(CLOCK, folder / "clock.so", "-shared", "-fPIC")
    return lambda ahead: {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(ahead)}


@pytest.fixture
def pair(make_pair, webs):
    return make_pair(original=webs[0].address, local=webs[1].address)


def test_ready_lines(pair):
    pair.start()
    sidecar, workspace = pair.sidecar.ready, pair.workspace.ready
    assert sidecar["ready"] is True and workspace["ready"] is True
    assert sidecar["publicKey"] == pair.sidecar_key.public
    assert workspace["publicKey"] == pair.workspace_key.public
    assert sidecar["tcp"] == f"127.0.0.1:{pair.tunnel[1]}"
    assert "udp" not in sidecar
    assert workspace["carrier"] == "tcp"
    assert isinstance(workspace["rttMs"], int | float) and 0 < workspace["rttMs"] < 10_000
    ask(pair.public)
    assert pair.workspace.stop() == 0 and pair.sidecar.stop() == 0
    assert len(pair.sidecar.process.lines) == len(pair.workspace.process.lines) == 1


def test_own_key_for_this_run(make_pair, webs):
    """Without a key file an agent makes a key; the sidecar can't know such a workspace, but tells its own key."""
    pair = make_pair(original=webs[0].address, local=webs[1].address)
    flags = pair.sidecar_flags()[2:]
    pair.sidecar_flags = lambda: flags
    keys = []
    for _ in range(2):
        pair.start_sidecar()
        keys.append(pair.sidecar.public_key)
        assert pair.sidecar.stop() == 0
    assert all(len(base64.b64decode(key, validate=True)) == 32 for key in keys)
    assert keys[0] != keys[1]


def test_peers_file_is_read_again(make_pair, webs, folder):
    """A workspace becomes known while the sidecar runs; taken off the list, it is out within a second."""
    pair = make_pair(original=webs[0].address, local=webs[1].address)
    peers = folder / "peers"
    peers.write_text(KeyPair().public + "\n")
    flags = pair.sidecar_flags()
    at = flags.index("--peer")
    flags[at : at + 2] = ["--peers-file", peers]
    pair.sidecar_flags = lambda: flags
    pair.start_sidecar()
    before = peers.read_text()
    peers.write_text(before + pair.workspace_key.public + "\n")
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
    peers.write_text(before)
    eventually("a key taken off the list is out", lambda: who(pair.public) == "environment", 2)
    assert pair.workspace.process.wait(30) == 1
    assert pair.workspace.process.log().strip()


def test_no_line_per_connection(pair):
    pair.start()
    before = [len(agent.process.log().splitlines()) for agent in (pair.sidecar, pair.workspace)]
    for _ in range(500):
        assert ask(pair.public) == "workspace"
    after = [len(agent.process.log().splitlines()) for agent in (pair.sidecar, pair.workspace)]
    assert max(now - then for now, then in zip(after, before, strict=True)) < 20


def test_log_tells_what_happened(pair):
    """A person reads in the sidecar's log that the workspace came, and that it went."""
    pair.start()
    said = pair.sidecar.process.log()
    assert "intercept" in said.lower()
    pair.workspace.kill()
    eventually("the loss of the workspace is in the log", lambda: pair.sidecar.process.log() != said, 6)
    assert pair.sidecar_key.private not in said


def test_log_as_json(make_pair, webs):
    pair = make_pair(
        original=webs[0].address,
        local=webs[1].address,
        sidecar=["--log-format", "json"],
        workspace=["--log-format", "json", "--log-level", "debug"],
    ).start()
    for agent in (pair.sidecar, pair.workspace):
        lines = agent.process.log().splitlines()
        assert lines and all(isinstance(json.loads(line), dict) for line in lines)


def test_workspace_whose_clock_was_ahead_is_known_again(pair, clock):
    """What it told the sidecar last is kept beside its key: whatever its clock says, it goes on from there."""
    pair.start_sidecar()
    pair.start_workspace(environment=clock(3_600))
    assert pair.workspace.stop() == 0
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
    # One for each sidecar.
    assert len(list(timestamps(pair).iterdir())) == 1


def test_workspace_that_can_keep_nothing_beside_its_key(make_pair, webs):
    pair = make_pair(original=webs[0].address, local=webs[1].address, workspace=["--log-level", "debug"])
    timestamps(pair).touch()
    pair.start()
    assert ask(pair.public) == "workspace"
    said = pair.workspace.process.log().splitlines()
    assert [line for line in said if " debug " in line and timestamps(pair).name in line], said


def timestamps(pair):
    return pair.workspace_key_file.with_name(pair.workspace_key_file.name + ".timestamps")


SAMPLE = re.compile(
    r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-zA-Z_]\w*="[^"\n]*"(,[a-zA-Z_]\w*="[^"\n]*")*,?\})? -?[0-9.eE+-]+$'
)


def test_metrics_for_prometheus(make_pair, webs):
    port = free_port()
    pair = make_pair(
        original=webs[0].address, local=webs[1].address, sidecar=["--metrics", f"127.0.0.1:{port}"]
    ).start()
    for _ in range(3):
        assert ask(pair.public) == "workspace"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert samples and all(SAMPLE.match(line) for line in samples), text
    assert text.endswith("\n")
    typed = re.findall(r"^# TYPE (\S+) (counter|gauge|histogram|summary)$", text, re.MULTILINE)
    assert typed, text
    # The three connections are in some counter.
    assert any(float(line.rpartition(" ")[2]) == 3 for line in samples), text
    assert pair.sidecar_key.private not in text
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/elsewhere", timeout=30)
    assert who(pair.public) == "workspace"


def test_workspace_ends_after_its_connections(make_pair, closing):
    """SIGTERM: new connections reach the original at once, those that are open may finish."""
    original, local = closing(WebServer("environment")), closing(Server(tell_slowly))
    pair = make_pair(original=original.address, local=local.address).start()
    with connect(pair.public) as client:
        assert receive(client, 6) == b"part 0"
        pair.workspace.process.signal(signal.SIGTERM)
        start = time.monotonic()
        eventually("after SIGTERM of the workspace the original answers", lambda: who(pair.public) == "environment", 1)
        assert pair.workspace.process.is_running, "it ended before its connection did"
        assert receive(client, 100) == b"part 1part 2part 3"
    assert pair.workspace.process.wait(30) == 0
    note("a workspace with a connection of 1.5 s ends", 2.5, time.monotonic() - start)


def tell_slowly(connection):
    for number in range(4):
        connection.sendall(b"part %d" % number)
        time.sleep(0.5)


def test_drain_time_is_a_limit(make_pair, closing):
    original, local = closing(Server(echo)), closing(Server(echo))
    pair = make_pair(original=original.address, local=local.address, workspace=["--drain", "1s"]).start()
    with connect(pair.public) as client:
        exchange(client, b"I stay")
        start = time.monotonic()
        assert pair.workspace.stop() == 0
        note("a workspace with --drain 1s ends although a connection stays", 2, time.monotonic() - start)
        assert time.monotonic() - start > 0.9
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_sidecar_ends_after_its_connections(make_pair, closing):
    """Both kinds may finish: passed on to the original, and carried to the workspace."""
    original, local = closing(Server(tell_slowly)), closing(Server(tell_slowly))
    pair = make_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    with connect(pair.public) as passed:
        assert receive(passed, 6) == b"part 0"
        pair.start_workspace()
        with connect(pair.public) as carried:
            assert receive(carried, 6) == b"part 0"
            pair.sidecar.process.signal(signal.SIGTERM)
            assert receive(carried, 100) == b"part 1part 2part 3"
            assert receive(passed, 100) == b"part 1part 2part 3"
    assert pair.sidecar.process.wait(30) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(pair.public)


def test_interrupt_is_an_orderly_end_too(pair):
    pair.start()
    for agent in (pair.workspace, pair.sidecar):
        agent.process.signal(signal.SIGINT)
        assert agent.process.wait(30) == 0


def test_workspace_ends_although_its_sidecar_is_gone(pair):
    pair.start()
    pair.sidecar.kill()
    time.sleep(0.5)
    assert pair.workspace.stop(60) == 0


def test_terminated_before_it_was_ready(processes, binaries):
    """Someone gives up waiting: it ends at once, and says nothing on standard output."""
    flags = ["--sidecar", f"{KeyPair().public}@tcp:127.0.0.1:{free_port()}", "--map", "8080:3000"]
    process = processes.start("kl-workspace", [binaries / "kl-workspace", "run", *flags])
    time.sleep(1)
    process.signal(signal.SIGTERM)
    process.wait(20)
    assert process.lines == []


def test_stop_under_load_loses_nothing(pair):
    pair.start()
    load = Load(pair.public, per_second=200)
    time.sleep(0.5)
    assert pair.workspace.stop() == 0
    time.sleep(0.3)
    outcomes = load.stop()
    assert not [outcome for outcome in outcomes if outcome.failure], summary(outcomes)


def test_sidecar_with_a_closed_standard_output_and_error(make_pair, webs, processes, binaries):
    """Whoever started it may be gone: a log line that can't be written ends nothing."""
    pair = make_pair(original=webs[0].address, local=webs[1].address)
    flags = " ".join(f"'{flag}'" for flag in pair.sidecar_flags())
    # The reader of both ends after the first line, so that later writes get EPIPE.
    script = f"'{binaries / 'kl-sidecar'}' run {flags} 2>&1 | head -n 1"
    shell = processes.start("sh", ["sh", "-c", script])
    shell.first_line(30)
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
    assert pair.workspace.stop() == 0
    assert ask(pair.public) == "environment"


def test_many_clients_that_leave_at_once_leave_nothing(make_pair, closing):
    original, local = closing(Server(echo)), closing(Server(echo))
    pair = make_pair(original=original.address, local=local.address).start()
    before = pair.sidecar.process.descriptors()

    def come_and_go():
        for _ in range(20):
            with connect(pair.public) as client:
                client.sendall(b"hello")

    threads = [threading.Thread(target=come_and_go) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(
        "no descriptor is left of clients that have gone",
        lambda: pair.sidecar.process.descriptors() <= before + 2,
        2,
    )
