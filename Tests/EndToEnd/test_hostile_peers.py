"""An accepted key that floods, in both roles, beside a good one: what it gets is bounded, and every request is answered."""

import contextlib
import json
import pathlib
import socket
import statistics
import struct
import sys
import threading
import time
import urllib.request
from collections import deque

import pytest
from harness.load import who
from harness.loud_sidecar import make_folder
from harness.ports import free_port
from harness.udp import free_datagram_port
from harness.waiting import eventually
from harness.web import WebServer
from peer import control, wire
from peer.carrier import Carrier
from peer.handshake import NO_PSK, Initiation, as_text, generate_key, public_key, random_index, timestamp
from peer.initiator import LIMITS
from peer.programs import Program, folder, get, http, key_file, response
from peer.programs import Service as LocalServer
from test_peer_sidecar import PORT
from test_peer_sidecar import Setup as SidecarSetup
from test_peer_workspace import UNMAPPED
from test_peer_workspace import Setup as WorkspaceSetup

pytestmark = [
    pytest.mark.skipif(not folder(), reason="no programs: KL_BIN is unset and nothing was built"),
    pytest.mark.filterwarnings("ignore:One of ephemeral keypairs"),
]

LOG_LINES = 20  # at once, and one each 10 s
REQUESTS = 30


def good_workspace(setup, tmp_path, udp=None):
    """A real workspace with the setup's first key, which has the service. It dials over TCP, or to this port over UDP."""
    local = LocalServer(http("good"))
    setup.stack.callback(local.close)
    sidecar = "%s@tcp:%s:%d" % (as_text(public_key(setup.own)), *setup.tcp)
    if udp:
        sidecar = "%s@udp:127.0.0.1:%d" % (as_text(public_key(setup.own)), udp)
    key = key_file(tmp_path / "good.key", setup.keys[0])
    arguments = ["--private-key-file", key, "--sidecar", sidecar, "--map", f"{PORT}:{local.port}"]
    program = Program(tmp_path / "good.log", "kl-workspace", "run", *arguments)
    setup.stack.callback(program.close)
    eventually("the good workspace answers", lambda: get(setup.front) == "good", 10)
    return program


@contextlib.contextmanager
def meanwhile(action):
    """Again and again, in a thread, until the body has ended."""
    ended, failures = threading.Event(), []

    def run():
        try:
            while not ended.is_set():
                action()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(20)
    assert not failures, failures


def milliseconds(ask, seconds=1):
    """How long one request takes, in the middle of all that are made in so many seconds."""
    times, until = [], time.monotonic() + seconds
    while len(times) < REQUESTS or time.monotonic() < until:
        began = time.monotonic()
        assert ask() == "good"
        times.append(time.monotonic() - began)
    return 1_000 * statistics.median(times)


UNKNOWN = b'{"type":"an unknown one"}'
REFUSED = b'{"type":"start","generation":1,"ports":[{"service":9}],"drainSeconds":601}'


@pytest.mark.parametrize("json_text", [UNKNOWN, REFUSED], ids=["unknown", "refused"])
def test_control_messages_of_one_key_beside_another(tmp_path, json_text):
    setup = SidecarSetup(tmp_path, keys=2)
    with setup.stack:
        good_workspace(setup, tmp_path)
        loud = setup.workspace(1, max_data=1 << 30, max_stream_data=1 << 30)
        connection = loud.wait_connected()
        loud.messages = deque(maxlen=100)
        control = connection.streams[0]
        said = (struct.pack(">I", len(json_text)) + json_text) * 200

        def say():
            with loud.changed:
                if len(control.sending.kept) < 1 << 18:
                    control.sending.write(said)
            loud.wake()
            time.sleep(0.001)

        with meanwhile(say):
            loud.wait_message("failed")
            for _ in range(REQUESTS):
                assert get(setup.front) == "good"
        assert not connection.closed


def test_messages_full_of_pings_beside_another(tmp_path):
    setup = SidecarSetup(tmp_path, keys=2)
    with setup.stack:
        good_workspace(setup, tmp_path)
        loud = setup.workspace(1)
        connection = loud.wait_connected()

        def ping():
            with loud.changed:
                carrier = connection.carrier
                if carrier and len(carrier.outgoing) < 1 << 18:
                    carrier.queue(connection.session.seal(connection.number, b"\1" * 16_000))
                    connection.number += 1
            loud.wake()
            time.sleep(0.001)

        with meanwhile(ping):
            for _ in range(REQUESTS):
                assert get(setup.front) == "good"
        assert not connection.closed


LOUD_KEY = pathlib.Path(__file__).parent / "harness/loud_key.py"


# Each asks for an answer; the third is an empty DATAGRAM, which is none of a flow's.
FLOODS = {"tiny": ("01", 1), "pings": ("01", 60_000), "datagrams": ("3100", 500)}


@pytest.mark.parametrize("flood", FLOODS)
def test_datagrams_of_one_key_beside_another(tmp_path, processes, flood):
    """Both over UDP, where all that comes to the sidecar comes by one socket."""
    udp, metrics = free_datagram_port(), free_port()
    flags = ["--listen-udp", f"127.0.0.1:{udp}", "--metrics", f"127.0.0.1:{metrics}"]
    setup = SidecarSetup(tmp_path, keys=2, flags=flags, rights=[])

    def dropped():
        text = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=30).read().decode()
        lines = [line for line in text.splitlines() if line.startswith("kl_tunnel_dropped_total{")]
        return {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}

    with setup.stack:
        good_workspace(setup, tmp_path, udp)
        alone = milliseconds(lambda: get(setup.front))
        words = [sys.executable, "-B", LOUD_KEY, "--key", key_file(tmp_path / "loud.key", setup.keys[1])]
        words += ["--responder", as_text(public_key(setup.own)), "--port", udp]
        words += ["--frame", FLOODS[flood][0], "--frames", FLOODS[flood][1], "--rate", 20_000_000]
        loud = processes.start("loud", words)
        loud.first_line(30)
        beside = milliseconds(lambda: get(setup.front), 2)
        assert loud.is_running, loud.log()
        assert loud.stop(30) == 0, loud.log()
        said, drops = json.loads(loud.lines[-1]), dropped()
        print(f"a request takes {alone:.1f} ms, and {beside:.1f} ms beside {said}; dropped: {drops}")
        # What was dropped, was dropped for its share; and the good one is still there.
        assert said["sent"] > 100 and said["heard"] > 0, said
        assert all(drops.get(reason, 0) == 0 for reason in ("not_opened", "malformed", "key_not_accepted")), drops
        assert get(setup.front) == "good"
        lines = [line for line in setup.program.log.read_text().splitlines() if "key=" in line]
        assert len(lines) <= 2 * LOG_LINES, lines


def initiation(setup, key, last):
    """Of this key, to be sent by hand: its message and its timestamp."""
    parameters = wire.Parameters(bytes(8), **LIMITS)
    stamp = timestamp(last)
    made = Initiation(setup.keys[key], public_key(setup.own), NO_PSK, random_index({}), stamp, parameters)
    return struct.pack(">I", len(made.message)) + made.message, stamp


def test_an_initiation_that_is_repeated_keeps_no_other_key_out(tmp_path):
    """As fast as a stream takes it, on a stream on which it was answered."""
    setup = SidecarSetup(tmp_path, keys=2)
    with setup.stack:
        stamp = bytes(12)

        def repeat():
            # One that says nothing new is closed after 5 s: then there is the next.
            nonlocal stamp
            with socket.create_connection(setup.tcp) as stream, contextlib.suppress(OSError):
                message, stamp = initiation(setup, 1, stamp)
                stream.sendall(message)
                stream.settimeout(10)
                assert stream.recv(4_096)
                while not ended.is_set():
                    stream.sendall(message * 50)

        ended = threading.Event()
        with meanwhile(repeat):
            for _ in range(5):
                workspace = setup.workspace(0)
                workspace.wait_connected()
                workspace.shut()
            ended.set()


def test_a_service_that_is_taken_and_left_again_and_again(tmp_path):
    """Each time is worth a line of the log. How often it changes the kernel's rules, test_redirect_original.py counts."""
    setup = SidecarSetup(tmp_path, keys=1)
    with setup.stack:
        workspace = setup.workspace()
        workspace.wait_connected()
        pairs, began = 25, time.monotonic()
        for number in range(pairs):
            ports = [{"service": PORT}]
            start = {"type": "start", "generation": number, "workspace": "x", "ports": ports, "drainSeconds": 0}
            workspace.send_control(start)
            workspace.send_control({"type": "stop"})
        for number in range(pairs):
            assert workspace.wait_message("started", timeout=30)["generation"] == number
        assert workspace.wait_message("stopped", timeout=30)
        took = time.monotonic() - began
        lines = [line for line in setup.program.log.read_text().splitlines() if "key=" in line]
        assert len(lines) <= LOG_LINES + 1 + took / 10, lines
        assert get(setup.front) == "original"


def test_lines_that_say_who_intercepts_are_few(tmp_path):
    """Whoever runs the sidecar keeps what it prints."""
    setup = SidecarSetup(tmp_path, flags=["--announce-intercepts"])
    with setup.stack:
        lines = deque()
        threading.Thread(target=lambda: lines.extend(setup.program.process.stdout), daemon=True).start()
        workspace = setup.workspace()
        workspace.wait_connected()
        generations, began = 60, time.monotonic()
        for generation in range(1, generations + 1):
            workspace.start(generation, PORT)
        while workspace.wait_message("started", timeout=30)["generation"] < generations:
            pass
        # The last one is told all the same.
        last = lambda: lines and json.loads(lines[-1]).get("intercept", {}).get("generation")
        eventually("the last one is told", lambda: last() == generations, 3)
        took = time.monotonic() - began
        assert len(lines) <= LOG_LINES + 2 + took, (len(lines), took)


def test_a_sidecar_that_says_withdrawn_again_and_again(tmp_path):
    """What the workspace owes it is one `start`, and no more than one each second."""
    setup = WorkspaceSetup(tmp_path)
    with setup.stack:
        sidecar = setup.sidecar
        json_text = b'{"type":"withdrawn"}'
        said = (struct.pack(">I", len(json_text)) + json_text) * 1_000
        control = sidecar.connection.streams[0]
        began, starts = time.monotonic(), 0
        for _ in range(3):
            with sidecar.changed:
                control.sending.write(said)
            sidecar.wake()
            sidecar.wait(lambda: not control.sending.kept, 20, "all to be acknowledged")
            time.sleep(0.5)
        assert setup.request()[1] == response("workspace")
        with sidecar.changed:
            starts = sum(message["type"] == "start" for message in sidecar.messages)
        took = time.monotonic() - began
        print(f"{starts} starts after 3,000 withdrawn in {took:.1f} s")
        assert 1 <= starts <= 2 + took


COUNTS = '{"type":"status","open":%d,"total":9,"passed":0,"bytesIn":0,"bytesOut":0}'
SAID = {
    "withdrawn": ['{"type":"withdrawn"}'],
    "unknown": [UNKNOWN.decode()],
    # Each is news for whoever looks at the daemon.
    "status": [COUNTS % 1, COUNTS % 2],
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_a_hostile_sidecar_beside_a_good_one(make_project, make_developer, binaries, folder, closing, said):
    """Of two intercepts of one daemon."""
    project, report = make_project(services=("api", "loud")), folder / "report.json"
    programs = make_folder(folder / "programs", binaries, project.port("loud"), said, report)
    ada = make_developer("ada", project.folder)
    ada.binaries = programs
    ada.ok("env", "connect", "demo")
    mine = closing(WebServer("good"))
    ada.ok("intercept", "start", "api", "--port", f"{project.port('api')}:{mine.address[1]}")
    ask = lambda: who(project.address("api"))
    alone = milliseconds(ask)
    before = resident_mib(ada.daemon())
    ada.run("intercept", "start", "loud", "--port", f"{project.port('loud')}:{mine.address[1]}")
    eventually("the hostile one floods", report.exists, 10)
    beside = milliseconds(ask, 3)
    # The daemon answers, and its good intercept is as it was.
    eventually("its good intercept is Active", lambda: ada.phase("api") == "Active", 2)
    grown = resident_mib(ada.daemon()) - before
    heard = json.loads(report.read_text())
    print(f"a request takes {alone:.1f} ms, and {beside:.1f} ms beside {heard}; {grown:.1f} MiB more")
    assert heard["bytes"] > 100_000, heard
    assert heard["starts"] <= 3 + heard["took"], heard
    assert grown < 32, grown
    lines = (ada.home / "daemon.log").read_text(errors="replace").splitlines()
    assert len(lines) < 200, len(lines)


def resident_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1_024


def test_streams_come_out_of_the_descriptors_that_there_are(tmp_path):
    setup = WorkspaceSetup(tmp_path)
    with setup.stack:
        assert setup.sidecar.answered[-1].max_streams <= 8_192
        setup.program.close()
        where = "%s@tcp:%s:%d" % (as_text(setup.sidecar.public), *setup.sidecar.address)
        program = Program(
            tmp_path / "few.log",
            *few_descriptors("kl-workspace"),
            *("run", "--sidecar", where, *setup.arguments),
        )
        setup.stack.callback(program.close)
        setup.sidecar.wait_message("start")
        assert setup.sidecar.answered[-1].max_streams == 102


@pytest.mark.parametrize("flag", ["takeover", "refuse"])
def test_rights_that_a_sidecar_was_not_given(tmp_path, flag):
    setup = SidecarSetup(tmp_path, keys=2, rights=[])
    with setup.stack:
        first, second = setup.started(), setup.workspace(1)
        second.wait_connected()
        more = {"takeover": True} if flag == "takeover" else {"onUnavailable": "refuse"}
        second.start(1, PORT, **more)
        failed = second.wait_message("failed", "started")
        assert failed["code"] == ("busy" if flag == "takeover" else "unsupported"), json.dumps(failed)
        assert f"--allow-{flag}" in failed["reason"]
        assert not first.messages or first.messages[-1]["type"] != "withdrawn"


def test_a_stop_is_heard_while_all_clients_stand_still(tmp_path):
    """Their uploads fill all that the sidecar keeps for a workspace."""
    setup = SidecarSetup(tmp_path)
    with setup.stack:
        workspace = setup.started({"max_streams": 200})
        clients = []
        for _ in range(80):
            clients.append(setup.stack.enter_context(socket.create_connection(setup.front, 15)))
            workspace.next_stream()[0].write(bytes([control.CONNECTED]))
            clients[-1].setblocking(False)
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.5:
            for client in clients:
                with contextlib.suppress(BlockingIOError):
                    client.send(bytes(1 << 16))
                    quiet_since = time.monotonic()
        workspace.send_control({"type": "stop"})
        workspace.wait_message("withdrawn", timeout=20)
        assert get(setup.front) == "original"


def test_a_flood_on_all_streams_of_a_key_beside_another(tmp_path):
    """They have one turn together."""
    setup = SidecarSetup(tmp_path, keys=2)
    with setup.stack:
        good_workspace(setup, tmp_path)
        loud = setup.workspace(1)
        connection = loud.wait_connected()
        carriers = [setup.stack.enter_context(further_carrier(setup, loud)) for _ in range(7)]

        def ping():
            with loud.changed:
                for outgoing in [connection.carrier, *carriers]:
                    if outgoing and len(outgoing.outgoing) < 1 << 18:
                        outgoing.queue(connection.session.seal(connection.number, b"\1" * 16_000))
                        connection.number += 1
            loud.wake()
            for carrier in carriers:
                assert carrier.send()
            time.sleep(0.001)

        with meanwhile(ping):
            for _ in range(REQUESTS):
                assert get(setup.front) == "good"
        assert not connection.closed


@contextlib.contextmanager
def further_carrier(setup, workspace):
    """A byte stream more of the workspace's connection, on which a message has come."""
    connection = workspace.connection
    with workspace.changed:
        parameters = workspace.parameters(connection.id)
        workspace.last_timestamp = timestamp(workspace.last_timestamp)
    stamp, index = workspace.last_timestamp, random_index(workspace.sessions)
    made = Initiation(setup.keys[1], public_key(setup.own), NO_PSK, index, stamp, parameters)
    with socket.create_connection(setup.tcp) as stream:
        stream.sendall(struct.pack(">I", len(made.message)) + made.message)
        stream.settimeout(10)
        assert stream.recv(4_096)
        stream.setblocking(False)
        carrier = Carrier(stream, time.monotonic())
        with workspace.changed:
            carrier.queue(connection.session.seal(connection.number, b""))
            connection.number += 1
        assert carrier.send()
        yield carrier


@pytest.fixture
def unreachable():
    """A port of this machine where connecting takes for ever: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        time.sleep(0.2)
        yield listener.getsockname()[1]


def few_descriptors(name, limit=256):
    # A program's name that begins at the root is taken as it is.
    return ["/usr/bin/prlimit", f"--nofile={limit}:{limit}", folder() / name]


def descriptors(program):
    return len(list(pathlib.Path(f"/proc/{program.process.pid}/fd").iterdir()))


def spoken(sidecar, port, data=b""):
    """So many streams as a workspace with few descriptors allows, all of which have said what they have to say."""
    clients = []
    for _ in range(60):
        connection = sidecar.connection
        sidecar.wait(lambda: connection.opened < connection.open_limit, 15, "credit for a stream")
        clients.append(sidecar.intercept(port))
        if data:
            clients[-1].write(data)
    sidecar.wait(lambda: not any(client.stream.sending.kept for client in clients), what="all to be acknowledged")
    return clients


@contextlib.contextmanager
def another_workspace(tmp_path, unreachable, before=lambda name: [name]):
    setup = WorkspaceSetup(tmp_path)
    with setup.stack:
        setup.program.close()
        where = "%s@tcp:%s:%d" % (as_text(setup.sidecar.public), *setup.sidecar.address)
        flags = ["run", "--sidecar", where, *setup.arguments, "--map", f"9:{unreachable}"]
        program = Program(tmp_path / "another.log", *before("kl-workspace"), *flags)
        setup.stack.callback(program.close)
        setup.sidecar.wait_message("start")
        yield setup, program


def test_clients_that_are_gone_before_their_local_server_was_reached(tmp_path, unreachable):
    """They said something and were reset, and nobody takes their words: their streams and descriptors are free again."""
    with another_workspace(tmp_path, unreachable, few_descriptors) as (setup, _):
        # Dialling takes 5 s.
        for _ in range(3):
            for client in spoken(setup.sidecar, 9, b"last words"):
                client.reset()
        assert setup.request()[1] == response("workspace")


def test_streams_that_all_come_at_once(tmp_path, unreachable):
    """Local servers are dialled in turns: who needs none isn't kept waiting by those who do."""
    with another_workspace(tmp_path, unreachable) as (setup, program):
        sidecar = setup.sidecar
        with sidecar.changed:
            connection = sidecar.connection
            count = min(4_000, connection.open_limit - connection.opened - 1)
            many = [sidecar.intercept(9) for _ in range(count)]
            last = sidecar.intercept(UNMAPPED)
        sidecar.wake()
        sidecar.wait(lambda: last.stream.receiving.readable, 30, "the last")
        dialled = descriptors(program)
        print(f"{dialled} of {count} descriptors when the last was answered")
        assert last.read(1) == bytes([control.NOT_MAPPED])
        assert dialled < count
        for client in many:
            client.reset(wire.TIMED_OUT)


def test_streams_that_are_given_up_while_their_local_server_is_dialled(tmp_path, unreachable):
    """A socket that is connecting counts until it has been closed, whoever has given up its stream."""
    with another_workspace(tmp_path, unreachable, few_descriptors) as (setup, program):
        most = 0
        for _ in range(6):
            for client in spoken(setup.sidecar, 9):
                client.reset(wire.TIMED_OUT)
            most = max(most, descriptors(program))
        assert most < 192, most


def test_strangers_beside_as_many_clients_as_there_may_be(tmp_path):
    """Neither takes the descriptors that the other has, nor those of a workspace."""
    setup = SidecarSetup(tmp_path)
    with setup.stack:
        setup.program.close()
        program = sidecar_with_few_descriptors(tmp_path, setup, setup.original.port)
        for _ in range(120):
            # Those that aren't taken wait in the kernel's queue.
            setup.stack.enter_context(socket.create_connection(setup.front))
        for _ in range(100):
            setup.stack.enter_context(socket.create_connection(setup.tcp))
        time.sleep(0.5)
        assert descriptors(program) < 256
        setup.workspace().wait_connected()


def sidecar_with_few_descriptors(tmp_path, setup, original):
    key = as_text(public_key(setup.keys[0]))
    flags = ["run", "--peer", key, *setup.files, "--listen-tcp", "%s:%d" % setup.tcp]
    flags += ["--service-port", f"{PORT}:127.0.0.1:{original}", "--divert", "listen=%s:%d" % setup.front]
    program = Program(tmp_path / "few.log", *few_descriptors("kl-sidecar"), *flags)
    setup.stack.callback(program.close)
    return program


def test_clients_that_are_gone_before_the_original_was_reached(tmp_path, unreachable):
    """The same at the sidecar, whose clients are anybody."""
    setup = SidecarSetup(tmp_path)
    with setup.stack:
        setup.program.close()
        program = sidecar_with_few_descriptors(tmp_path, setup, unreachable)
        for _ in range(400):
            with socket.create_connection(setup.front) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.5)
        assert descriptors(program) < 192
        # The tunnel's listener has what it needs.
        workspace = setup.workspace()
        workspace.wait_connected()
