"""A reset comes behind the bytes that were received before it, as in TCP itself; and whoever is killed ends by a reset."""

import select
import socket
import threading

import pytest
from harness.servers import Server
from harness.sockets import close_unread, connect, ending, receive, unsent
from harness.waiting import eventually

TOO_MANY = b"421 too many connections, try later\r\n"
GREETING = b"220 hello\r\n"


@pytest.fixture(params=["intercepted", "passed on"])
def public(request, make_pair, closing):
    """Where clients connect to a server with this handler, by one way or the other."""

    def start(handle):
        server = closing(Server(handle))
        other = closing(Server(lambda connection: None))
        if request.param == "intercepted":
            pair = make_pair(original=other.address, local=server.address).start()
        else:
            pair = make_pair(original=server.address, local=other.address)
            pair.start_sidecar()
        return pair

    return start


def test_a_server_that_says_its_sentence_and_closes(public):
    def refuse(connection):
        connection.sendall(TOO_MANY)
        close_unread(connection)

    address = public(refuse).public
    for _ in range(100):
        with connect(address) as client:
            client.sendall(b"EHLO me\r\n")
            assert ending(client, 30)[0] == TOO_MANY


def test_a_slow_reader_gets_all_that_came_before_the_reset(public):
    """It fills what every queue on the way holds."""
    answer = bytes(range(256)) * (3 << 12)
    sent = threading.Event()

    def say(connection):
        connection.sendall(answer)
        eventually("all has left the server", lambda: unsent(connection) == 0, 60)
        close_unread(connection)
        sent.set()

    address = public(say).public
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(address)
        client.sendall(b"unread")
        got = receive(client, 1000)
        # The server has closed while most is still on its way.
        while not sent.wait(0.02):
            got += receive(client, 1000)
        assert len(got) < len(answer)
        rest, how = ending(client, 60)
    assert got + rest == answer
    assert how == "reset"


def test_a_client_that_says_its_line_and_closes(public):
    lines = set()

    def greet(connection):
        connection.sendall(GREETING)
        try:
            while line := connection.recv(100):
                lines.add(line)
        except ConnectionResetError:
            pass

    address = public(greet).public
    for number in range(100):
        with connect(address) as client:
            select.select([client], [], [], 30)
            client.sendall(b"line %d\n" % number)
    eventually("all lines have come", lambda: len(lines) == 100, 60)


def test_a_killed_sidecar_ends_by_a_reset(public):
    """A download without a length doesn't pass for whole, nor does an upload."""
    begun, endings = [], []

    def serve(connection):
        if receive(connection, 4) == b"down":
            connection.sendall(b"some of it")
            connection.recv(100)
        else:
            begun.append(receive(connection, 10))
            endings.append(ending(connection, 60))

    pair = public(serve)
    with connect(pair.public) as download, connect(pair.public) as upload:
        download.sendall(b"down")
        assert receive(download, 10) == b"some of it"
        upload.sendall(b"up..some of it")
        eventually("the server has it", lambda: begun, 30)
        pair.sidecar.process.kill()
        assert ending(download, 60) == (b"", "reset")
        assert ending(upload, 60) == (b"", "reset")
    # A workspace would keep what is open for a sidecar that comes back.
    if pair.workspace:
        pair.workspace.process.kill()
    eventually("the upload ends", lambda: endings, 60)
    assert (begun, endings) == ([b"some of it"], [(b"", "reset")])


def test_a_killed_workspace_ends_by_a_reset(make_pair, closing):
    endings = []
    local = closing(Server(lambda connection: endings.append(ending(connection, 60))))
    original = closing(Server(lambda connection: None))
    pair = make_pair(original=original.address, local=local.address).start()
    with connect(pair.public) as upload:
        upload.sendall(b"some of it")
        eventually("the local server has it", lambda: local.accepted, 30)
        pair.workspace.process.kill()
        eventually("the upload ends", lambda: endings, 60)
    assert endings == [(b"some of it", "reset")] or endings == [(b"", "reset")]


def test_a_proper_end_stays_one(public):
    """Though a bridged socket would end by a reset, the last bytes of a server that has ended reach a slow reader."""
    answer = bytes(range(256)) * (1 << 13)

    def say(connection):
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        ending(connection, 60)

    address = public(say).public
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(address)
        client.shutdown(socket.SHUT_WR)
        got = receive(client, 100_000)
        rest, how = ending(client, 60)
    assert got + rest == answer
    assert how == "fin"
