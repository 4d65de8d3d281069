"""A WebSocket server and client, which PyPI's `websockets` is both of."""

import os
import threading

import pytest
from harness.ports import address
from harness.servers import Server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve


@pytest.fixture
def echo_server(closing):
    def handle(socket):
        for message in socket:
            if message == "go away":
                socket.close(4001, "as you wish")
                return
            socket.send(message)

    server = serve(handle, "127.0.0.1", 0, max_size=None, compression=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    closing(_Shutdown(server))
    return server.socket.getsockname()[:2]


class _Shutdown:
    def __init__(self, server):
        self.close = server.shutdown


def test_websocket_messages_pings_and_closing(make_pair, echo_server, closing):
    original = closing(Server(lambda connection: None))
    public = make_pair(original=original.address, local=echo_server).start().public
    with connect(f"ws://{address(*public)}/", max_size=None, compression=None) as socket:
        for message in ("grüße", "", os.urandom(70_000), os.urandom(3 << 20)):
            socket.send(message)
            assert socket.recv(timeout=30) == message
        socket.send([b"one message", b" in", b" fragments"])
        assert socket.recv(timeout=30) == b"one message in fragments"
        assert socket.ping().wait(30)
        # Both directions at once, on a connection that is quiet otherwise.
        for number in range(1000):
            socket.send(str(number))
        assert [socket.recv(timeout=30) for _ in range(1000)] == [str(number) for number in range(1000)]
        socket.send("go away")
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=30)
        assert (socket.close_code, socket.close_reason) == (4001, "as you wish")
    assert original.accepted == 0
