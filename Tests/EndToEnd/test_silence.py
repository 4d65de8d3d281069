"""Strangers at the tunnel's port: no byte for them, and no more cost than a closed connection after 5 s."""

import os
import ssl
import threading
import time

import pytest
from harness.line import Line
from harness.load import ask
from harness.sockets import connect, ending
from harness.waiting import note
from harness.web import WebServer

SILENCE = 5.0
# The agent's clock and this one don't start at the same instant.
TOLERANCE = 0.1


@pytest.fixture
def pair(make_pair, closing):
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    pair = make_pair(original=original.address, local=local.address)
    pair.original_server = original
    return pair


def framed(message):
    return len(message).to_bytes(4, "big") + message


STRANGERS = {
    "nothing": b"",
    "one byte": b"\0",
    "a web browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "64 KiB of noise": os.urandom(1 << 16),
    "a length of 4 GiB": b"\xff\xff\xff\xff",
    "a length of 4 GiB with bytes": b"\xff\xff\xff\xff" + os.urandom(100_000),
    "a length of zero": b"\0\0\0\0",
    "a length past an initiation's": framed(b"\x01\0\0\0" + os.urandom(1197)),
    "an initiation of noise": framed(b"\x01\0\0\0" + os.urandom(1196)),
    "an initiation too short": framed(b"\x01\0\0\0" + os.urandom(200)),
    "a response": framed(b"\x02\0\0\0" + os.urandom(300)),
    "a cookie reply": framed(b"\x03\0\0\0" + os.urandom(60)),
    "data": framed(b"\x04\0\0\0" + os.urandom(200)),
    "an unknown type": framed(b"\x05\0\0\0" + os.urandom(300)),
    "many small messages": framed(b"\x01\0\0\0") * 1000,
    "half an initiation": framed(b"\x01\0\0\0" + os.urandom(1196))[:600],
}


def endings(tunnel, openings):
    """Opens one connection for each of these first bytes, all at once: what came back, and how long it stayed open."""
    results = {}

    def one(name, first):
        with connect(tunnel) as connection:
            opened = time.monotonic()
            try:
                connection.sendall(first)
                data, _ = ending(connection, 60)
            except OSError as error:
                data = repr(error).encode()
            results[name] = (data, time.monotonic() - opened)

    threads = [threading.Thread(target=one, args=opening, daemon=True) for opening in openings.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(results) == len(openings)
    return results


def assert_silent(results):
    for name, (data, seconds) in results.items():
        assert data == b"", f"{name}: {data[:60]!r} came back"
        assert seconds > SILENCE - TOLERANCE, f"{name}: closed after {seconds:.2f} s"
        assert seconds < SILENCE * 10, f"{name}: closed after {seconds:.2f} s"
    note("strangers are closed after 5 s", 5.5, max(seconds for _, seconds in results.values()))


def test_strangers_get_no_byte(pair):
    pair.start()
    manners = [BehindTheirBack(pair.tunnel, how) for how in (never_stops, byte_by_byte, speaks_tls)]
    assert_silent(endings(pair.tunnel, STRANGERS))
    for stranger in manners:
        stranger.check()
    assert pair.original_server.requests == 0
    assert ask(pair.public) == "workspace"
    assert len(pair.sidecar.process.log().splitlines()) < 20
    assert pair.sidecar.process.resident_mib("VmHWM") < 64


class BehindTheirBack(threading.Thread):
    """A stranger that does more than send and wait: a function that returns the bytes that came back at the end."""

    def __init__(self, tunnel, how):
        super().__init__(daemon=True)
        self.tunnel, self.how = tunnel, how
        self.result = None
        self.start()

    def run(self):
        with connect(self.tunnel) as connection:
            opened = time.monotonic()
            data = self.how(connection)
            self.result = {self.how.__name__: (data, time.monotonic() - opened)}

    def check(self):
        self.join(60)
        assert self.result, f"{self.how.__name__} is not done"
        assert_silent(self.result)


def never_stops(connection):
    """What it sends is read and thrown away; its end comes all the same."""
    sent = 0
    try:
        while True:
            sent += connection.send(b"\xff" * 65536)
            time.sleep(0.001)
    except OSError:
        return b"" if sent > 1 << 20 else b"its bytes were not read"


def byte_by_byte(connection):
    """An initiation that never gets whole."""
    connection.settimeout(0.05)
    try:
        for byte in framed(b"\x01\0\0\0" + os.urandom(1196)):
            connection.send(bytes([byte]))
            try:
                return connection.recv(100)
            except TimeoutError:
                continue
    except OSError:
        return b""


def speaks_tls(connection):
    """A real client of another protocol: the system's own TLS."""
    with pytest.raises((ssl.SSLError, OSError)):
        ssl._create_unverified_context().wrap_socket(connection)
    return b""


def test_sixty_five_strangers_leave_room_for_a_workspace(pair):
    """One more than may wait closes the one that waits longest; who has the key still gets in."""
    pair.start_sidecar()
    strangers = [connect(pair.tunnel) for _ in range(64)]
    opened = time.monotonic()
    time.sleep(0.3)
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
    data, _ = ending(strangers[0], 60)
    assert data == b""
    # Sooner than 5 s: this one had to go for the workspace.
    note("the longest waiting stranger makes room", 3, time.monotonic() - opened)
    for stranger in strangers:
        stranger.close()


def test_replayed_initiation_gets_no_byte(pair, closing):
    pair.start_sidecar()
    line = closing(Line(pair.tunnel))
    pair.dialled = line.listen_address
    pair.start_workspace()
    seen = bytes(line.connections[0].first_bytes)
    initiation = seen[: 4 + int.from_bytes(seen[:4], "big")]
    assert initiation[4] == 1
    flipped = bytearray(initiation)
    flipped[100] ^= 1
    results = endings(
        pair.tunnel,
        {
            "replay": initiation,
            "replay of more": seen,
            "replay, twice": initiation * 2,
            "one bit flipped": bytes(flipped),
        },
    )
    assert_silent(results)
    assert ask(pair.public) == "workspace"


def test_replay_to_a_sidecar_that_has_forgotten_gains_nothing(pair, closing):
    """After a restart the timestamps are forgotten: a response may come back, and no more than that."""
    pair.start_sidecar()
    line = closing(Line(pair.tunnel))
    pair.dialled = line.listen_address
    pair.start_workspace()
    seen = bytes(line.connections[0].first_bytes)
    pair.workspace.kill()
    pair.sidecar.kill()
    pair.start_sidecar()
    with connect(pair.tunnel) as connection:
        connection.sendall(seen)
        data, _ = ending(connection, 60)
    if data:
        length = int.from_bytes(data[:4], "big")
        assert data[4] == 2 and len(data) == 4 + length, "more than a handshake response came back"
        assert length <= int.from_bytes(seen[:4], "big"), "more came back than was sent"
    assert ask(pair.public) == "environment"
    pair.dialled = pair.tunnel
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
