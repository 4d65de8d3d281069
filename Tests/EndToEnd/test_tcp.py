"""What TCP can say besides bytes: a half-close, a reset, a connection that is only held, and IPv6."""

import hashlib
import socket
import subprocess
import threading

import pytest
from harness import sockets
from harness.load import ask
from harness.ports import address
from harness.servers import Server, echo, read_all, reset
from harness.sockets import connect, ending
from harness.waiting import eventually
from harness.web import WebServer


@pytest.fixture
def intercept(make_pair, closing):
    """Starts the agents with this handler in the workspace; where clients connect, and the server."""
    original = closing(Server(lambda connection: None))

    def start(handle):
        local = closing(Server(handle))
        return make_pair(original=original.address, local=local.address).start().public, local

    yield start
    assert original.accepted == 0


def test_nc_half_closes_first_and_gets_its_whole_answer(intercept, folder):
    """`nc -N` sends FIN at the end of its input; the answer can only be made after that, and is long."""

    def answer(connection):
        question = read_all(connection)
        connection.sendall(hashlib.sha256(question).hexdigest().encode() + bytes(range(256)) * (1 << 16))

    (host, port), _ = intercept(answer)
    question = folder / "question"
    question.write_bytes(b"what do you make of this? " * 200_000)
    with open(question, "rb") as file:
        done = subprocess.run(["nc", "-N", host, str(port)], stdin=file, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout[:64].decode() == hashlib.sha256(question.read_bytes()).hexdigest()
    assert done.stdout[64:] == bytes(range(256)) * (1 << 16)


def test_server_half_closes_first_and_gets_everything(intercept):
    got = []

    def send_first(connection):
        connection.sendall(b"that is all from me")
        connection.shutdown(socket.SHUT_WR)
        got.append(read_all(connection))

    public, _ = intercept(send_first)
    with connect(public) as client:
        assert sockets.receive(client, 100) == b"that is all from me"
        client.sendall(b"z" * (4 << 20))
        client.shutdown(socket.SHUT_WR)
        eventually("bytes sent after the server's FIN arrive", lambda: got, 2)
    assert got == [b"z" * (4 << 20)]


def test_both_half_close_without_a_byte(intercept):
    public, local = intercept(echo)
    with connect(public) as client:
        client.shutdown(socket.SHUT_WR)
        assert ending(client, 30) == (b"", "fin")
    assert local.accepted == 1


def test_server_that_resets_resets_the_client(intercept):
    def refuse(connection):
        connection.recv(100)
        connection.sendall(b"half an ans")
        connection.recv(100)
        reset(connection)

    public, _ = intercept(refuse)
    with connect(public) as client:
        client.sendall(b"question")
        assert sockets.receive(client, 11) == b"half an ans"
        client.sendall(b"and?")
        assert ending(client, 30) == (b"", "reset")


def test_client_that_resets_resets_the_server(intercept):
    seen = []

    def read(connection):
        connection.sendall(b"ready")
        connection.settimeout(60)
        seen.append(ending(connection, 60))

    public, _ = intercept(read)
    with connect(public) as client:
        assert sockets.receive(client, 5) == b"ready"
        client.sendall(b"never mind")
        reset(client)
    eventually("the client's reset reaches the server", lambda: seen, 1)
    data, end = seen[0]
    # A reset overtakes bytes that were not read yet, as on any TCP connection.
    assert end == "reset" and b"never mind".startswith(data)


def test_original_service_that_resets_resets_the_client(make_pair, closing):
    """The same without a workspace: what is passed on is passed on with its resets."""

    def refuse(connection):
        connection.recv(100)
        reset(connection)

    original = closing(Server(refuse))
    pair = make_pair(original=original.address, local=original.address)
    pair.start_sidecar()
    with connect(pair.public) as client:
        client.sendall(b"question")
        assert ending(client, 30) == (b"", "reset")


def test_original_service_that_is_not_there_is_a_reset(make_pair, closing):
    gone = Server(echo)
    gone.close()
    pair = make_pair(original=gone.address, local=gone.address)
    pair.start_sidecar()
    with connect(pair.public) as client:
        assert ending(client, 30) == (b"", "reset")


def test_bytes_cross_in_both_directions_at_once_one_by_one(intercept):
    """Small writes on a connection are neither held back nor joined out of order."""
    public, _ = intercept(echo)
    with connect(public) as client:
        count = 2000

        def send():
            for number in range(count):
                client.sendall(number.to_bytes(4, "big"))

        threading.Thread(target=send, daemon=True).start()
        assert sockets.receive(client, 4 * count) == b"".join(n.to_bytes(4, "big") for n in range(count))


def test_server_that_speaks_first(intercept):
    def greet(connection):
        connection.sendall(b"220 hello\r\n")
        echo(connection)

    public, _ = intercept(greet)
    with connect(public) as client:
        assert sockets.receive(client, 11) == b"220 hello\r\n"
        sockets.exchange(client, b"EHLO")


def test_ipv6_at_both_ends(make_pair, closing):
    original, local = closing(WebServer("environment", "::1")), closing(WebServer("workspace", "::1"))
    pair = make_pair(original=original.address, local=local.address, host="::1")
    pair.start_sidecar()
    assert ask(pair.public) == "environment"
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
    assert pair.sidecar.ready["tcp"] == address("::1", pair.tunnel[1])
