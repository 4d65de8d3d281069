"""The peer as sidecar, against the real kl-workspace. KL_BIN names the folder of the programs."""

import contextlib
import os
import signal
import socket
import time

import pytest
from harness import sockets
from harness.ports import free_port
from peer import control, wire
from peer.agent import in_background
from peer.handshake import as_text, generate_key, public_key
from peer.programs import Program, Service, echo, folder, http, key_file, response
from peer.responder import Sidecar
from peer.stream import StreamReset

pytestmark = [
    pytest.mark.skipif(not folder(), reason="no programs: KL_BIN is unset and nothing was built"),
    pytest.mark.filterwarnings("ignore:One of ephemeral keypairs"),
]

DATA = os.urandom(8_000_000)
REQUEST = b"GET / HTTP/1.0\r\nHost: test\r\n\r\n"
MAPPED, ECHO, NOBODY, UNMAPPED = 8080, 8081, 8082, 8083


class Setup:
    def __init__(self, folder, psk=None, echo=echo, **limits):
        self.folder, self.private = folder, generate_key()
        self.stack = contextlib.ExitStack()
        self.service, self.echo = Service(http("workspace")), Service(echo)
        self.sidecar = Sidecar(generate_key(), {public_key(self.private): psk}, **limits)
        for end in (self.service.close, self.echo.close, self.sidecar.shut):
            self.stack.callback(end)
        self.arguments = ["--private-key-file", key_file(folder / "workspace.key", self.private)]
        if psk:
            self.arguments += ["--preshared-key-file", key_file(folder / "psk", psk)]
        self.nobody = free_port()
        for service, local in ((MAPPED, self.service.port), (ECHO, self.echo.port), (NOBODY, self.nobody)):
            self.arguments += ["--map", f"{service}:{local}"]
        self.program = self.run()
        self.start = self.sidecar.wait_message("start")

    def run(self):
        host, port = self.sidecar.address
        where = f"{as_text(self.sidecar.public)}@tcp:{host}:{port}"
        program = Program(self.folder / "workspace.log", "kl-workspace", "run", "--sidecar", where, *self.arguments)
        self.stack.callback(program.close)
        return program

    def request(self, port=MAPPED):
        """What the client would see: the answer byte, and all until the end."""
        client = self.sidecar.intercept(port)
        client.write(REQUEST)
        data = client.read_to_end()
        client.end()
        return data[0], data[1:]


@pytest.fixture
def setup(tmp_path):
    made = Setup(tmp_path)
    with made.stack:
        yield made
        assert not [drop for drop in made.sidecar.drops if "open" in drop], made.sidecar.drops


@pytest.mark.parametrize("psk", [None, bytes(range(32))], ids=["no psk", "psk"])
def test_an_intercept_from_start_to_stop(tmp_path, psk):
    setup = Setup(tmp_path, psk)
    with setup.stack:
        assert setup.program.ready["publicKey"] == as_text(public_key(setup.private))
        assert type(setup.start["generation"]) is int
        ports = sorted(port["service"] for port in setup.start["ports"])
        assert ports == [MAPPED, ECHO, NOBODY]
        assert {port.get("transport", "tcp") for port in setup.start["ports"]} == {"tcp"}
        assert setup.request() == (control.CONNECTED, response("workspace"))
        assert setup.service.requests == [REQUEST]
        held = setup.sidecar.connection
        setup.program.process.send_signal(signal.SIGTERM)
        assert setup.sidecar.wait_message("stop")
        assert setup.program.process.wait(20) == 0
        setup.sidecar.wait(lambda: held.closed)
        assert held.closed.code == wire.DONE


@pytest.mark.parametrize(("port", "answer"), [(UNMAPPED, control.NOT_MAPPED), (NOBODY, control.REFUSED)])
def test_what_cannot_be_connected(setup, port, answer):
    for _ in range(3):
        assert setup.request(port) == (answer, b"")
    sidecar = setup.sidecar
    sidecar.wait(lambda: list(sidecar.connection.streams) == [0], what="the streams to finish")
    assert setup.request() == (control.CONNECTED, response("workspace"))


def services(start):
    return [port["service"] for port in start["ports"]]


def test_a_port_behind_which_nothing_listens_is_left_out_until_something_does(setup):
    sidecar = setup.sidecar
    for _ in range(2):
        assert setup.request(NOBODY) == (control.REFUSED, b"")
    shorter = sidecar.wait_message("start", timeout=30)
    assert services(shorter) == [MAPPED, ECHO]
    assert shorter["generation"] > setup.start["generation"]
    changed = {"ports": 0, "absent": 0, "generation": 0}
    assert shorter | changed == setup.start | changed
    assert setup.start["absent"] == [] and services(shorter) + [port["service"] for port in shorter["absent"]] == services(setup.start)
    # The same again on another carrier; the third port is known still.
    with sidecar.changed:
        sidecar.drop_carrier(sidecar.connection.carrier, abort=True)
    assert sidecar.wait_message("start", timeout=30) == shorter
    assert setup.request() == (control.CONNECTED, response("workspace"))
    assert setup.request(NOBODY) == (control.REFUSED, b"")
    with socket.create_server(("127.0.0.1", setup.nobody)) as server:
        longer = sidecar.wait_message("start", timeout=30)
        assert services(longer) == services(setup.start)
        assert longer["generation"] > shorter["generation"]
        # It was seen, and not called.
        server.settimeout(0.5)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_new_connection_begins_with_all_ports(setup):
    sidecar = setup.sidecar
    assert setup.request(NOBODY) == (control.REFUSED, b"")
    assert services(sidecar.wait_message("start", timeout=30)) == [MAPPED, ECHO]
    with sidecar.changed:
        sidecar.forget(sidecar.connection)
    assert services(sidecar.wait_message("start", timeout=30)) == services(setup.start)
    # Without a client that would have to be refused first.
    assert services(sidecar.wait_message("start", timeout=30)) == [MAPPED, ECHO]


def test_a_sidecar_that_takes_no_other_list_keeps_the_one_before(setup):
    sidecar = setup.sidecar
    asked = []

    def refuse(connection, message):
        asked.append(services(message))
        failed = {"type": "failed", "generation": message["generation"], "code": "internal", "reason": "not now"}
        sidecar.say(connection, failed)

    sidecar.take_start = refuse
    assert setup.request(NOBODY) == (control.REFUSED, b"")
    sidecar.wait(lambda: asked, timeout=30, what="another list")
    assert setup.request() == (control.CONNECTED, response("workspace"))
    assert setup.request(NOBODY) == (control.REFUSED, b"")
    assert asked == [[MAPPED, ECHO]] and setup.program.process.poll() is None


@pytest.mark.parametrize(
    ("port", "answer"),
    [(MAPPED, control.CONNECTED), (UNMAPPED, control.NOT_MAPPED), (NOBODY, control.REFUSED)],
)
def test_a_probe_gets_its_answer_and_no_more(setup, port, answer):
    client = setup.sidecar.intercept(port, "0.0.0.0", 0)
    assert client.read_to_end() == bytes([answer])
    client.end()
    sidecar = setup.sidecar
    sidecar.wait(lambda: list(sidecar.connection.streams) == [0], what="the streams to finish")
    assert setup.request() == (control.CONNECTED, response("workspace"))


def test_a_message_that_is_refused_holds_up_none_behind_it(setup):
    """Both in one piece: the workspace, asked to say again what it wants, does so."""
    sidecar = setup.sidecar
    strange = {"type": "start", "generation": 1, "ports": [{"service": 8080}], "onUnavailable": "later's"}
    with sidecar.changed:
        stream = sidecar.connection.streams[0]
        stream.sending.write(control.encode(strange) + control.encode({"type": "withdrawn"}))
    sidecar.wake()
    assert sidecar.wait_message("start")["generation"] == setup.start["generation"]
    assert setup.request() == (control.CONNECTED, response("workspace"))


def test_a_header_that_is_wrong_is_answered_with_4(setup):
    sidecar = setup.sidecar
    for wrong in (b"\x02\x06\x1f\x90\x04\xc0\0\2\7\x9c\x40", b"\x01\x06\x1f\x90\x05\xc0\0\2\7\x9c\x40"):
        with sidecar.changed:
            stream = sidecar.connection.open()
            client = sidecar.handle(sidecar.connection, stream)
        client.write(wrong + REQUEST)
        assert client.read_to_end() == bytes([control.OTHER])
        client.end()


def transfer(client, data, got):
    """Sends all of it and reads as much. Neither end closes: that is tested by itself."""

    def write():
        for at in range(0, len(data), 100_000):
            client.write(data[at : at + 100_000])
            time.sleep(0.005)

    def read():
        while len(got) < len(data):
            got.extend(client.read(timeout=30))

    return in_background(write, read)


def test_no_byte_is_lost_when_carriers_break(setup):
    sidecar = setup.sidecar
    client, got = sidecar.intercept(ECHO), bytearray()
    assert client.read_exactly(1) == bytes([control.CONNECTED])
    first, before = sidecar.connection.id, len(sidecar.answered)
    join = transfer(client, DATA, got)
    for number in range(1, 5):
        time.sleep(0.05)
        with sidecar.changed:
            sidecar.drop_carrier(sidecar.connection.carrier, abort=True)
        sidecar.wait(lambda: sidecar.connection.carrier, 15, "the workspace to dial again")
        assert len(sidecar.answered) >= before + number
    assert len(got) < len(DATA), "over before it was disturbed"
    join()
    assert bytes(got) == DATA
    assert sidecar.connection.id == first
    assert {asked.connection_id for asked in sidecar.answered[before:]} == {first}
    # `start` again, with the same generation.
    assert sidecar.wait_message("start")["generation"] == setup.start["generation"]


def test_a_forgotten_connection(setup):
    sidecar = setup.sidecar
    client = sidecar.intercept(ECHO)
    assert client.read_exactly(1) == bytes([control.CONNECTED])
    first = sidecar.connection.id
    with sidecar.changed:
        sidecar.forget(sidecar.connection)
    with pytest.raises(StreamReset):
        client.read()
    assert sidecar.wait_message("start", timeout=15)["generation"] >= setup.start["generation"]
    assert sidecar.connection.id != first
    assert sidecar.answered[-1].connection_id == first, "it asks for the connection that it holds"
    assert setup.request() == (control.CONNECTED, response("workspace"))


@pytest.mark.parametrize("code", [wire.REVOKED, wire.REPLACED])
def test_a_workspace_that_is_turned_away_stops(setup, code):
    answered = len(setup.sidecar.answered)
    setup.sidecar.close(code)
    assert setup.program.process.wait(15) != 0
    assert len(setup.sidecar.answered) == answered


def test_after_a_close_without_fault_it_dials_again(setup):
    first = setup.sidecar.connection.id
    setup.sidecar.close(wire.NO_ERROR)
    assert setup.sidecar.wait_message("start", timeout=15)
    assert setup.sidecar.connection.id != first
    assert setup.request() == (control.CONNECTED, response("workspace"))


@pytest.mark.parametrize("size", [0, 1, 500_000])
def test_the_client_ends_first_and_the_service_answers(tmp_path, size):
    def at_the_end(service, sock):
        while more := sock.recv(65_536):
            service.requests.append(more)
        sock.sendall(DATA[:size])

    setup = Setup(tmp_path, echo=at_the_end)
    with setup.stack:
        client = setup.sidecar.intercept(ECHO)
        client.write(b"question")
        client.end()
        assert client.read_to_end() == bytes([control.CONNECTED]) + DATA[:size]
        assert b"".join(setup.echo.requests) == b"question"
        sidecar = setup.sidecar
        sidecar.wait(lambda: list(sidecar.connection.streams) == [0], what="the stream to finish")


@pytest.mark.parametrize("size", [0, 1, 500_000])
def test_the_service_ends_first_and_the_client_goes_on(tmp_path, size):
    def ends_first(service, sock):
        sock.shutdown(socket.SHUT_WR)
        while more := sock.recv(65_536):
            service.requests.append(more)
        service.requests.append(None)

    setup = Setup(tmp_path, echo=ends_first)
    with setup.stack:
        client = setup.sidecar.intercept(ECHO)
        assert client.read_to_end() == bytes([control.CONNECTED])
        client.write(DATA[:size])
        client.end()
        client.wait_acknowledged()
        setup.sidecar.wait(lambda: setup.echo.requests[-1:] == [None], what="the service's end")
        assert b"".join(setup.echo.requests[:-1]) == DATA[:size]


def test_a_reset_client_resets_the_service(setup):
    sidecar = setup.sidecar
    client = sidecar.intercept(ECHO)
    client.write(b"x")
    assert client.read_exactly(2) == bytes([control.CONNECTED]) + b"x"
    client.reset(wire.TCP_RESET)
    client.stop(wire.TCP_RESET)
    sidecar.wait(lambda: list(sidecar.connection.streams) == [0], what="the stream to finish")


def test_the_rekey_is_the_initiators(setup):
    """After 120 s, on the carrier in use, with a stream open."""
    sidecar = setup.sidecar
    client = sidecar.intercept(ECHO)
    assert client.read_exactly(1) == bytes([control.CONNECTED])
    first, carrier, session = sidecar.connection.id, sidecar.connection.carrier, sidecar.connection.session
    before = len(sidecar.answered)
    end = time.monotonic() + 135
    while len(sidecar.answered) == before:
        client.write(b"x")
        assert client.read_exactly(1) == b"x"
        assert time.monotonic() < end, "no rekey"
        time.sleep(0.5)
    assert 119 < session.age < 130
    sidecar.wait(lambda: sidecar.connection.session is not session, what="data of the new session")
    assert sidecar.answered[-1].connection_id == sidecar.connection.id == first
    assert sidecar.connection.carrier is carrier
    client.write(b"after")
    assert client.read_exactly(5) == b"after"
    assert len(sidecar.connection.sessions) == 2


@pytest.mark.parametrize("takes", [0, 1], ids=["without the extension", "with it"])
def test_urgent_bytes_are_told_to_a_sidecar_that_takes_them(tmp_path, takes):
    """Another gets the bytes around them, and the log says so once."""
    seen = []

    def serve(service, sock):
        seen.append(sockets.pieces(sock))
        sock.sendall(b"ab")
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(b"cd")
        sock.shutdown(socket.SHUT_WR)

    setup = Setup(tmp_path, echo=serve, urgent=takes)
    with setup.stack:
        for _ in range(2):
            client = setup.sidecar.intercept(ECHO)
            client.write(b"12")
            if takes:
                client.write_urgent(b"3")
            client.write(b"4")
            client.end()
            answer = bytes([control.CONNECTED])
            assert client.read_to_end() == answer + (b"ab!cd" if takes else b"abcd")
            assert client.stream.receiving.urgent == ({3} if takes else set())
        assert seen == [(b"1234", {2})] * 2 if takes else [(b"124", set())] * 2
        log = setup.program.log.read_text()
        assert log.count("urgent data is left out") == (0 if takes else 1), log
