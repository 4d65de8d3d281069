"""The peer as workspace, against the real kl-sidecar. KL_BIN names the folder of the programs."""

import contextlib
import os
import signal
import socket
import struct
import time

import pytest
from harness import sockets
from harness.ports import free_port
from harness.udp import free_datagram_port
from harness.waiting import eventually
from peer import control, handshake, wire
from peer.agent import in_background
from peer.handshake import Initiation, as_text, generate_key, public_key
from peer.initiator import LIMITS, Workspace
from peer.programs import Program, Service, ask, folder, get, http, key_file, response
from peer.stream import StreamReset

pytestmark = [
    pytest.mark.skipif(not folder(), reason="no programs: KL_BIN is unset and nothing was built"),
    pytest.mark.filterwarnings("ignore:One of ephemeral keypairs"),
]

DATA = os.urandom(8_000_000)
PORT = 8080


class Setup:
    """An original service, a sidecar in front of it, and keys of workspaces that it accepts."""

    def __init__(self, folder, psk=None, keys=1, flags=(), rights=("--allow-refuse",)):
        self.folder, self.psk, self.flags, self.rights = folder, psk, flags, rights
        self.keys = [generate_key() for _ in range(keys)]
        self.own = generate_key()
        self.tcp, self.front = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        self.stack = contextlib.ExitStack()
        self.original = Service(http("original"))
        self.stack.callback(self.original.close)
        self.files = ["--private-key-file", key_file(folder / "sidecar.key", self.own)]
        if psk:
            self.files += ["--preshared-key-file", key_file(folder / "psk", psk)]
        self.run()

    def run(self):
        peers = [word for key in self.keys for word in ("--peer", as_text(public_key(key)))]
        self.program = Program(
            self.folder / "sidecar.log",
            *("kl-sidecar", "run", *peers, *self.files),
            *("--listen-tcp", "%s:%d" % self.tcp),
            *("--service-port", f"{PORT}:127.0.0.1:{self.original.port}"),
            *("--divert", "listen=%s:%d" % self.front),
            *self.rights,
            *self.flags,
        )
        self.stack.callback(self.program.close)
        assert self.program.ready["publicKey"] == as_text(public_key(self.own))
        assert self.program.ready["tcp"] == "%s:%d" % self.tcp

    def workspace(self, key=0, psk=None, **limits):
        made = Workspace(self.keys[key], public_key(self.own), self.tcp, psk or self.psk or handshake.NO_PSK, **limits)
        self.stack.callback(made.shut)
        return made

    def started(self, limits=None, **more):
        workspace = self.workspace(**(limits or {}))
        workspace.wait_connected()
        workspace.start(1, PORT, **more)
        assert workspace.wait_message("started", "failed") == {"type": "started", "generation": 1}
        return workspace

    @contextlib.contextmanager
    def stream(self, workspace):
        """A client's connection, and its stream, answered with 0."""
        with socket.create_connection(self.front, 15) as client:
            service, header = workspace.next_stream()
            assert header == control.Header(PORT, *client.getsockname())
            service.write(bytes([control.CONNECTED]))
            yield client, service


@pytest.fixture
def setup(tmp_path):
    made = Setup(tmp_path)
    with made.stack:
        yield made


def serve(workspace, text="workspace", count=1):
    """Takes so many requests and answers each."""

    def run():
        for _ in range(count):
            service, _ = workspace.next_stream()
            request = b""
            while b"\r\n\r\n" not in request:
                request += service.read()
            service.write(bytes([control.CONNECTED]) + response(text))
            service.end()
            service.discard()

    return in_background(run)


@pytest.mark.parametrize("psk", [None, bytes(range(32))], ids=["no psk", "psk"])
def test_an_intercept_from_start_to_stop(tmp_path, psk):
    setup = Setup(tmp_path, psk)
    with setup.stack:
        assert get(setup.front) == "original"
        workspace = setup.started()
        join = serve(workspace)
        assert get(setup.front) == "workspace"
        join()
        workspace.send_control({"type": "stop"})
        assert workspace.wait_message("withdrawn") == {"type": "withdrawn"}
        assert get(setup.front) == "original"
        assert workspace.wait_message("stopped") == {"type": "stopped", "total": 1, "passed": 0}
        workspace.done()
        assert get(setup.front) == "original"
        assert not workspace.resets and not workspace.drops


def test_a_psk_that_differs(setup):
    workspace = setup.workspace(psk=bytes([7]) * 32)
    with pytest.raises(TimeoutError):
        workspace.wait_connected(2.5)
    assert any("PSK" in reason for reason in workspace.drops), workspace.drops
    assert get(setup.front) == "original"


def test_what_is_refused_is_answered_by_the_original(setup):
    workspace = setup.started()

    def refuse():
        for answer in (control.REFUSED, control.NOT_MAPPED, control.CONNECT_TIMED_OUT, control.OTHER):
            service, _ = workspace.next_stream()
            service.write(bytes([answer]))
            service.end()
            service.discard()

    join = in_background(refuse)
    for number in range(4):
        assert get(setup.front, f"/{number}") == "original"
    join()
    # The original got every byte from the first.
    assert [request.split()[1] for request in setup.original.requests] == [b"/0", b"/1", b"/2", b"/3"]
    join = serve(workspace)
    assert get(setup.front) == "workspace"
    join()
    workspace.send_control({"type": "stop"})
    assert workspace.wait_message("stopped") == {"type": "stopped", "total": 5, "passed": 4}


def test_a_refused_connection_leaves_no_stream_behind(setup):
    workspace = setup.started()
    for _ in range(3):
        join = in_background(lambda: get(setup.front))
        service, _ = workspace.next_stream()
        service.write(bytes([control.REFUSED]))
        service.end()
        service.discard()
        join()
        workspace.wait(lambda: list(workspace.connection.streams) == [0], what="the stream to finish")
        # It may have ended with the sidecar's RESET_STREAM alone.
        assert service.stream.receiving.reset_code in (None, wire.TO_THE_ORIGINAL)


def test_under_refuse_the_client_is_reset(setup):
    workspace = setup.started(onUnavailable="refuse")

    def refuse():
        service, _ = workspace.next_stream()
        service.write(bytes([control.REFUSED]))
        service.end()
        service.discard()

    join = in_background(refuse)
    with socket.create_connection(setup.front, 15) as client, pytest.raises(ConnectionResetError):
        ask(client)
        raise AssertionError("answered")
    join()
    assert not setup.original.requests


def echo(service):
    while data := service.read(timeout=30):
        service.write(data)
    service.end()


@pytest.mark.parametrize("disturb", ["nothing", "rekey", "cut"])
def test_no_byte_is_lost(setup, disturb):
    workspace = setup.started()
    first, handshakes = workspace.connection.id, workspace.handshakes
    with setup.stream(workspace) as (client, service):
        got = bytearray()

        def send():
            for at in range(0, len(DATA), 100_000):
                client.sendall(DATA[at : at + 100_000])
                time.sleep(0.005)
            client.shutdown(socket.SHUT_WR)

        def receive():
            while data := client.recv(65_536):
                got.extend(data)

        client.settimeout(30)
        join = in_background(send, receive, lambda: echo(service))
        if disturb != "nothing":
            for _ in range(5):
                time.sleep(0.05)
                getattr(workspace, disturb)()
            assert len(got) < len(DATA), "over before it was disturbed"
        join()
        assert bytes(got) == DATA
    assert workspace.connection.id == first and not workspace.resets
    assert workspace.handshakes == handshakes + (0 if disturb == "nothing" else 5)
    join = serve(workspace)
    assert get(setup.front) == "workspace"
    join()


@pytest.mark.parametrize("size", [0, 1, 500_000])
def test_the_client_ends_first_and_the_service_answers(setup, size):
    workspace = setup.started()
    with setup.stream(workspace) as (client, service):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert service.read_to_end() == b"question"
        join = in_background(lambda: (service.write(DATA[:size]), service.end()))
        assert read_all(client) == DATA[:size]
        join()
    workspace.wait(lambda: list(workspace.connection.streams) == [0], what="the stream to finish")


@pytest.mark.parametrize("size", [0, 1, 500_000])
def test_the_service_ends_first_and_the_client_goes_on(setup, size):
    workspace = setup.started()
    with setup.stream(workspace) as (client, service):
        service.end()
        assert client.recv(1) == b""
        join = in_background(lambda: (client.sendall(DATA[:size]), client.shutdown(socket.SHUT_WR)))
        assert service.read_to_end() == DATA[:size]
        join()
    workspace.wait(lambda: list(workspace.connection.streams) == [0], what="the stream to finish")


def read_all(sock):
    data = bytearray()
    while more := sock.recv(65_536):
        data += more
    return bytes(data)


def test_an_idle_stream_lives_through_a_cut(setup):
    workspace = setup.started()
    with setup.stream(workspace) as (client, service):
        workspace.cut()
        assert workspace.wait_message("started") == {"type": "started", "generation": 1}
        client.sendall(b"ping")
        assert service.read_exactly(4) == b"ping"
        workspace.rekey()
        service.write(b"pong")
        assert client.recv(4) == b"pong"


def test_a_session_of_before_a_rekey_still_opens(setup):
    workspace = setup.started()
    with setup.stream(workspace) as (client, service):
        with workspace.changed:
            old = workspace.connection.session
        workspace.rekey()
        assert workspace.connection.session is not old
        with workspace.changed:
            workspace.connection.session, new = old, workspace.connection.session
        service.write(b"old")
        assert client.recv(3) == b"old"
        with workspace.changed:
            workspace.connection.session = new
        service.write(b"new")
        assert client.recv(3) == b"new"


def test_a_refused_resumption(setup):
    workspace = setup.started()
    first = workspace.connection.id
    with setup.stream(workspace) as (client, service):
        setup.program.end(signal.SIGKILL)
        setup.run()
        workspace.wait(lambda: workspace.resets == [first], 15, "the refusal")
        with pytest.raises(StreamReset):
            service.read()
    assert workspace.wait_message("started")["generation"] == 1
    assert workspace.connection.id != first
    join = serve(workspace)
    assert get(setup.front) == "workspace"
    join()


def test_an_unknown_id_makes_a_new_connection_that_replaces(setup):
    first = setup.started()
    second = setup.workspace()
    second.wait_connected()
    first.wait(lambda: first.closed_with is not None, what="REPLACED")
    assert first.closed_with == wire.REPLACED
    second.start(1, PORT)
    assert second.wait_message("started", "failed")["type"] == "started"
    join = serve(second, "second")
    assert get(setup.front) == "second"
    join()


def test_without_a_workspace_the_original_answers(setup):
    workspace = setup.started()
    workspace.shut()  # says nothing; the sidecar finds it gone a second later
    time.sleep(1.5)
    for _ in range(3):
        assert get(setup.front) == "original"


def test_a_client_that_comes_while_there_is_no_carrier(setup):
    """It waits. Nothing of it was sent, so the original answers once the workspace is held gone (PROTOCOL §17.3)."""
    workspace = setup.started()
    workspace.shut()
    time.sleep(0.2)
    assert get(setup.front) == "original"


SHORT = ["--dead-after", "2s", "--linger", "3s"]
START = {"type": "start", "generation": 1, "workspace": "peer", "ports": [{"service": PORT}], "onUnavailable": "refuse"}


def shake_hands(setup, exchange, identifier, size=handshake.SMALLEST_INITIATION):
    """A handshake without an agent: a session, of a connection that has sent nothing."""
    parameters, keys = wire.Parameters(identifier, **LIMITS), (setup.keys[0], public_key(setup.own))
    initiation = Initiation(*keys, handshake.NO_PSK, 1, handshake.timestamp(), parameters)
    initiation.payload = wire.pad_parameters(initiation.payload, size - handshake.INITIATION_OVERHEAD)
    return initiation.finish(exchange(initiation.begin()))


def start_message(session):
    frames = wire.StreamData(0, 0, control.encode(START)).encode()
    return session.seal(0, frames + bytes(-len(frames) % 16))


def is_refused(setup):
    """So it is while a workspace has the port for itself, and doesn't answer."""
    with contextlib.suppress(OSError, AssertionError):
        return get(setup.front, timeout=1) != "original"
    return True


def original_is_back(setup):
    eventually("the original answers once linger is over", lambda: not is_refused(setup), 4)


def test_a_workspace_that_never_had_a_path_keeps_nothing(tmp_path):
    """Its first message comes from another port than its handshake, and nobody is there to answer for that."""
    udp = ("127.0.0.1", free_datagram_port())
    setup = Setup(tmp_path, flags=[*SHORT, "--listen-udp", "%s:%d" % udp])
    with setup.stack:
        first, second = (setup.stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
        first.settimeout(10)

        def exchange(message):
            first.sendto(message, udp)
            return first.recv(65_536)

        session = shake_hands(setup, exchange, os.urandom(8), handshake.LARGEST_HANDSHAKE)
        second.sendto(start_message(session), udp)
        eventually("the port is taken", lambda: is_refused(setup), 1)
        original_is_back(setup)


def test_a_workspace_that_is_back_without_a_word_keeps_nothing(tmp_path):
    """Its new stream stands by, which is no sign of life, and nothing follows."""
    setup = Setup(tmp_path, flags=SHORT)
    with setup.stack:

        def connect():
            sock = setup.stack.enter_context(socket.create_connection(setup.tcp, 10))

            def exchange(message):
                send(message)
                (length,) = struct.unpack(">I", sock.recv(4, socket.MSG_WAITALL))
                return sock.recv(length, socket.MSG_WAITALL)

            def send(message):
                sock.sendall(struct.pack(">I", len(message)) + message)

            return sock, send, exchange

        sock, send, exchange = connect()
        session = shake_hands(setup, exchange, os.urandom(8))
        send(start_message(session))
        eventually("the port is taken", lambda: is_refused(setup), 1)
        sock.close()
        said = "workspace is gone"
        eventually("the workspace is gone", lambda: said in setup.program.log.read_text(), 3)
        _, send, exchange = connect()
        again = shake_hands(setup, exchange, session.remote.connection_id)
        assert again.remote.connection_id == session.remote.connection_id
        send(again.seal(1, b""))
        original_is_back(setup)


def test_a_client_that_comes_during_a_cut(setup):
    workspace = setup.started()
    with workspace.changed:
        workspace.dialling = False
        workspace.drop_carrier(workspace.connection.carrier, abort=True)
    time.sleep(0.1)
    join = serve(workspace)

    def back():
        time.sleep(0.3)
        workspace.dialling = True

    also = in_background(back)
    assert get(setup.front) == "workspace"
    join()
    also()


def test_a_status_is_told(setup):
    workspace = setup.started()
    join = serve(workspace)
    assert get(setup.front) == "workspace"
    join()
    while (status := workspace.wait_message("status"))["open"]:
        pass
    assert all(type(status[name]) is int for name in ("open", "total", "passed", "bytesIn", "bytesOut"))
    assert (status["total"], status["passed"]) == (1, 0)
    assert status["bytesOut"] == len(response("workspace"))
    assert status["bytesIn"] == len(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")


def test_a_probe_is_answered_and_counts_nowhere(setup):
    workspace = setup.started()

    def probe(number, answer):
        workspace.send_control({"type": "probe", "id": number, "ports": [{"service": PORT, "transport": "tcp"}]})
        service, header = workspace.next_stream()
        assert header == control.Header(PORT, "0.0.0.0", 0)
        assert service.read() == b""
        service.write(bytes([answer]))
        service.end()
        answers = [{"service": PORT, "transport": "tcp", "answer": answer}]
        assert workspace.wait_message("probed") == {"type": "probed", "id": number, "answers": answers}

    for number, answer in enumerate((control.CONNECTED, control.REFUSED, control.OTHER)):
        probe(number, answer)
    workspace.wait(lambda: list(workspace.connection.streams) == [0], what="the streams to finish")
    workspace.send_control({"type": "stop"})
    assert workspace.wait_message("stopped") == {"type": "stopped", "total": 0, "passed": 0}
    assert setup.original.requests == []


def test_a_probe_of_a_workspace_that_takes_it_for_a_client(setup):
    """Its answer counts; what its server says, and how long that takes to leave, disturbs nothing."""
    workspace = setup.started()
    ports = [{"service": PORT, "transport": "tcp"}]
    workspace.send_control({"type": "probe", "id": 1, "ports": ports})
    service, _ = workspace.next_stream()
    # One at a time.
    workspace.send_control({"type": "probe", "id": 2, "ports": ports})
    assert workspace.wait_message("probed") == {"type": "probed", "id": 2, "answers": []}
    service.write(bytes([control.CONNECTED]) + b"220 mail.example ESMTP")
    assert workspace.wait_message("probed")["answers"] == [{**ports[0], "answer": control.CONNECTED}]
    join = serve(workspace)
    assert get(setup.front) == "workspace"
    join()
    with pytest.raises(StreamReset):
        while True:
            service.wait_acknowledged()
            service.write(b"x", timeout=10)
            time.sleep(0.2)


def test_a_probe_without_an_answer(setup):
    workspace = setup.started()
    workspace.send_control({"type": "probe", "id": 1, "ports": [{"service": PORT}]})
    assert workspace.wait_message("probed", timeout=12) == {"type": "probed", "id": 1, "answers": []}


def test_control_messages_that_cannot_be_done(setup):
    workspace = setup.workspace()
    workspace.wait_connected()
    workspace.send_control({"type": "dance", "generation": 7})
    failed = workspace.wait_message("failed")
    assert (failed["generation"], failed["code"]) == (7, "unsupported")
    for ports, code in (([{"service": 9_999}], "port"), ([{"service": PORT, "transport": "sctp"}], "unsupported")):
        workspace.send_control({"type": "start", "generation": 8, "ports": ports, "unknown": [1]})
        failed = workspace.wait_message("failed", "started")
        assert (failed["type"], failed["generation"], failed["code"]) == ("failed", 8, code)
        workspace.send_control({"type": "probe", "id": 9, "ports": ports})
        failed = workspace.wait_message("failed", "probed")
        assert (failed["type"], failed["id"], failed["code"], failed.get("generation")) == ("failed", 9, code, None)
    workspace.send_control({"type": "start", "generation": "nine", "ports": []})
    workspace.wait(lambda: workspace.closed_with is not None, what="CONTROL_ERROR")
    assert workspace.closed_with == wire.CONTROL_ERROR


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (wire.StreamData(4, 0, b"x"), wire.STREAM_LIMIT_ERROR),
        (wire.StreamData(1, 0, b"x"), wire.STREAM_STATE_ERROR),
        (wire.StreamData(2, 0, b"x"), wire.STREAM_STATE_ERROR),
        (wire.Ack([(1_000_000, 1_000_000)]), wire.PROTOCOL_VIOLATION),
        (wire.ResetStream(0, 0, 1_000_000), wire.CONTROL_ERROR),
        (wire.StreamData(0, 2**40, b"x"), wire.FLOW_CONTROL_ERROR),
        (wire.MaxStreams(2**60 + 1), wire.FRAME_ENCODING_ERROR),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, wire.Frame) else f"{value:#x}",
)
def test_what_breaks_the_protocol_closes_the_connection(setup, frame, code):
    workspace = setup.started()
    with workspace.changed:
        connection = workspace.connection
        usual = connection.numbered
        connection.numbered = lambda plaintext, *rest: usual(frame.encode() + plaintext, *rest)
        connection.ping()
    workspace.wake()
    workspace.wait(lambda: workspace.closed_with is not None, what="a close")
    assert workspace.closed_with == code
    # A new connection, and all works as before.
    assert workspace.wait_message("started")["generation"] == 1
    join = serve(workspace)
    assert get(setup.front) == "workspace"
    join()


def test_a_replayed_initiation_is_not_answered(setup):
    workspace = setup.workspace()
    sent = []
    with workspace.changed:
        initiate = workspace.initiate

        def remembered(carrier):
            initiate(carrier)
            sent.append(list(workspace.in_flight.values())[-1][0].message)

        workspace.initiate = remembered
    workspace.wait_connected()
    workspace.rekey()
    with socket.create_connection(setup.tcp, 10) as sock:
        sock.sendall(struct.pack(">I", len(sent[-1])) + sent[-1])
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert 4 < time.monotonic() - began < 7


def test_a_session_that_is_not_confirmed_changes_nothing(setup):
    workspace = setup.started()
    with setup.stream(workspace) as (client, service):
        # An initiation as a resumption sends it, on a carrier of its own, and then nothing.
        with workspace.changed:
            workspace.last_timestamp = handshake.timestamp(workspace.last_timestamp)
            parameters = workspace.parameters(workspace.connection.id)
            keys = (workspace.private, workspace.responder, workspace.psk)
            initiation = Initiation(*keys, 1, workspace.last_timestamp, parameters)
        with socket.create_connection(setup.tcp, 10) as sock:
            sock.sendall(struct.pack(">I", len(initiation.message)) + initiation.message)
            (length,) = struct.unpack(">I", sock.recv(4, socket.MSG_WAITALL))
            session = initiation.finish(sock.recv(length, socket.MSG_WAITALL))
            assert session.remote.connection_id == workspace.connection.id
            began = time.monotonic()
            client.sendall(b"ping")
            assert service.read_exactly(4) == b"ping"
            assert sock.recv(1) == b""  # closed without a byte more
            assert 4 < time.monotonic() - began < 7
        service.write(b"pong")
        assert client.recv(4) == b"pong"
        assert workspace.handshakes == 1


@pytest.mark.parametrize("bytes_sent", [b"", b"GET / HTTP/1.0\r\n\r\n", struct.pack(">I", 256) + bytes(256)])
def test_the_sidecar_is_silent(setup, bytes_sent):
    with socket.create_connection(setup.tcp, 10) as sock:
        sock.sendall(bytes_sent)
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert 4 < time.monotonic() - began < 7


def test_a_key_that_is_not_accepted_gets_nothing(setup):
    workspace = Workspace(generate_key(), public_key(setup.own), setup.tcp)
    setup.stack.callback(workspace.shut)
    with pytest.raises(TimeoutError):
        workspace.wait_connected(2.5)
    assert workspace.handshakes == 0 and not workspace.drops


def test_two_keys_and_one_diversion(tmp_path):
    setup = Setup(tmp_path, keys=2, flags=["--allow-takeover"])
    with setup.stack:
        first = setup.started()
        second = setup.workspace(1)
        second.wait_connected()
        second.start(1, PORT)
        failed = second.wait_message("failed", "started")
        assert (failed["type"], failed["code"], failed["holder"]) == ("failed", "busy", "peer")
        second.start(2, PORT, takeover=True)
        assert second.wait_message("failed", "started") == {"type": "started", "generation": 2}
        assert first.wait_message("withdrawn") == {"type": "withdrawn", "holder": "peer"}
        join = serve(second, "second")
        assert get(setup.front) == "second"
        join()


def test_the_end_of_the_sidecar(setup):
    workspace = setup.started()
    assert setup.program.end() == 0
    workspace.wait(lambda: workspace.closed_with is not None or not workspace.carriers, what="an end")
    assert workspace.closed_with == wire.NO_ERROR


@pytest.mark.parametrize("takes", [0, 1], ids=["without the extension", "with it"])
def test_urgent_bytes_are_told_to_a_workspace_that_takes_them(setup, takes):
    """Another gets the bytes around them, as a reader that doesn't ask for urgent ones does, and the log says so once."""
    workspace = setup.started(limits={"urgent": takes})
    for _ in range(2):
        with socket.create_connection(setup.front, 15) as client:
            client.sendall(b"ab")
            client.send(b"!", socket.MSG_OOB)
            client.sendall(b"cd")
            client.shutdown(socket.SHUT_WR)
            service, header = workspace.next_stream()
            service.write(bytes([control.CONNECTED]))
            assert service.read_to_end() == (b"ab!cd" if takes else b"abcd")
            assert service.stream.receiving.urgent == ({len(header.encode()) + 2} if takes else set())
            if takes:
                service.write_urgent(b"?")
                assert sockets.pieces(client, 1) == (b"?", {0})
            service.end()
    log = setup.program.log.read_text()
    assert log.count("urgent data is left out") == (0 if takes else 1), log


def test_an_urgent_byte_on_the_control_stream_ends_the_connection(setup):
    workspace = setup.started()
    with workspace.changed:
        control_stream = workspace.connection.streams[0].sending
        control_stream.urgent.add(control_stream.length)
    workspace.start(2, PORT)
    assert workspace.wait(lambda: workspace.closed_with, what="a close") == wire.CONTROL_ERROR
