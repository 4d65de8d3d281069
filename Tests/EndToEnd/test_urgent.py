"""TCP's urgent data: FTP's ABOR, telnet's Synch, a test that Oracle's clients make when they connect."""

import select
import socket
import threading

import pytest
from harness.ports import free_port
from harness.servers import Server
from harness.sockets import connect, pieces, receive
from harness.waiting import eventually

WAYS = ("passed on", "intercepted", "intercepted over UDP", "handed over", "behind a header", "looked at before")


@pytest.fixture(params=WAYS)
def reached(request, make_pair, closing):
    """Gives where a client reaches a server that runs a handler, by one way."""

    def start(handle):
        server, nobody = closing(Server(handle)), ("127.0.0.1", free_port())
        way = request.param
        if way in ("passed on", "handed over"):
            pair = make_pair(original=server.address, local=nobody)
            pair.start_sidecar() if way == "passed on" else pair.start()
            return pair.public, 0
        sidecar = ["--node-address", "127.0.0.1"] if way == "looked at before" else []
        workspace = ["--proxy-protocol", "v2"] if way == "behind a header" else []
        pair = make_pair(original=nobody, local=server.address, sidecar=sidecar, workspace=workspace)
        if way == "intercepted over UDP":
            place = f"127.0.0.1:{free_port()}"
            pair.sidecar_arguments += ["--listen-udp", place]
            pair.workspace_arguments += ["--sidecar", f"{pair.sidecar_key.public}@udp:{place}"]
        pair.start()
        # Version 2's header for IPv4.
        return pair.public, 28 if workspace else 0

    return start


def test_arrives_as_urgent_in_its_place(reached):
    seen = []

    def serve(connection):
        seen.append(pieces(connection))
        connection.close()

    public, before = reached(serve)
    with connect(public) as client:
        # Before anybody has taken the connection, too.
        client.sendall(b"ab")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"cd")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    data, urgent = seen[0]
    assert (data[before:], urgent) == (b"ab!cd", {before + 2})


def test_several_in_a_row_both_ways_and_as_the_last_byte(reached):
    """A server that reads each before the next comes sees each: directly it is the same."""
    seen = []

    def serve(connection):
        header = receive(connection, before)
        for _ in range(3):
            data, urgent = pieces(connection, 1)
            seen.append((data, urgent))
            connection.send(data.upper(), socket.MSG_OOB)
        seen.append(pieces(connection))
        connection.sendall(b"bye")
        connection.send(b".", socket.MSG_OOB)
        assert len(header) == before

    before = 0
    public, before = reached(serve)
    with connect(public) as client:
        for letter in (b"a", b"b", b"c"):
            client.send(letter, socket.MSG_OOB)
            assert pieces(client, 1) == (letter.upper(), {0})
        client.sendall(b"x" * 100_000)
        client.send(b"z", socket.MSG_OOB)
        client.shutdown(socket.SHUT_WR)
        assert pieces(client) == (b"bye.", {3})
    assert seen == [(b"a", {0}), (b"b", {0}), (b"c", {0}), (b"x" * 100_000 + b"z", {100_000})]


@pytest.mark.parametrize("reached", ["passed on", "intercepted"], indirect=True)
def test_a_server_that_reads_it_apart_gets_no_byte_too_many(reached):
    """As `ftpd` and Oracle's listener do it: the urgent byte comes beside the others."""

    def serve(connection):
        data = urgent = b""
        while b"." not in data:
            readable, _, special = select.select([connection], [], [] if urgent else [connection], 30)
            if special:
                urgent += connection.recv(1, socket.MSG_OOB)
            if readable:
                data += connection.recv(100)
        connection.sendall(data + b"|" + urgent)

    public, _ = reached(serve)
    with connect(public) as client:
        client.sendall(b"ABOR")
        client.send(b"\xff", socket.MSG_OOB)
        client.sendall(b"\r\n.")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 100) == b"ABOR\r\n.|\xff"


@pytest.mark.parametrize("reached", ["passed on", "intercepted"], indirect=True)
def test_behind_more_than_the_sockets_hold(reached):
    """The byte has to wait until the server reads."""
    go, seen = threading.Event(), []

    def serve(connection):
        go.wait(60)
        seen.append(pieces(connection))

    public, _ = reached(serve)
    much = bytes(range(256)) * (1 << 15)
    with connect(public) as client:

        def send():
            client.sendall(much)
            client.send(b"!", socket.MSG_OOB)
            client.sendall(b"after")
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        # All that there is room for on the way is full.
        sender.join(1)
        go.set()
        sender.join(60)
        eventually("the server has all", lambda: seen, aim=1)
    data, urgent = seen[0]
    assert data == much + b"!after"
    assert urgent == {len(much)}
